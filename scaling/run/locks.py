"""One process at a time in a folder: an advisory lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.files import open_in_place
from data_pipeline.text import printable

POLL_SECONDS = 0.2


NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class LockError(UserError):
    """A folder that cannot be had for oneself; the message names who holds it, or what is missing, and the remedy."""


@contextmanager
def locked(path: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` during the block; LockError after waiting `patience_seconds` for another holder."""
    descriptor = open_in_place(path, os.O_RDWR)
    try:
        _acquire(descriptor, path, time.monotonic() + patience_seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise LockError(
                    f"{path.parent}: is in use by {printable(holder)}: wait for it or stop it, then launch again"
                ) from None
            time.sleep(POLL_SECONDS)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise LockError(
                f"{path}: cannot be locked ({error.strerror}): this file system knows no flock, which keeps two "
                "processes out of one run: mount it with flock (Lustre: -o flock), or set launch.folder to another"
            ) from None
