"""Files of one user's that say which commands run: nobody else may write them, and nobody else may read them."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
POLL_SECONDS = 0.1


class PrivacyError(OSError):
    """A file or folder that is another user's, or that others may write; the message names it and the remedy."""


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700 where it is missing. PrivacyError where it is not ours alone."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check(path, path.lstat(), OTHERS)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, complete or not at all. OSError names it."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_record(path: Path, content: Any) -> None:
    """Write plain values as JSON; otherwise as `write_private`."""
    write_private(path, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> Any:
    """The plain values of a JSON file. PrivacyError where others may write it; OSError, ValueError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as stream:
        _check(path, os.fstat(stream.fileno()), OTHERS_WRITE)
        return json.load(stream)


@contextmanager
def locked(path: Path, patience_seconds: float) -> Iterator[None]:
    """Hold the lock file during the block; TimeoutError after waiting so long for another holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + patience_seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path.parent}: somebody else is submitting: wait, then try again") from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _check(path: Path, found: os.stat_result, forbidden: int) -> None:
    if found.st_uid != os.getuid():
        raise PrivacyError(f"{path}: belongs to user {found.st_uid}, not to you: remove it, or choose another folder")
    if found.st_mode & forbidden:
        raise PrivacyError(f"{path}: has mode {stat.S_IMODE(found.st_mode):04o}, open to others: chmod go-rwx it")
