"""Files that appear complete or not at all, on local disks and on shared parallel file systems.

Everything is written under a temporary name in the folder of its destination, flushed to the device, renamed over the
destination, and the folder entry flushed. Whoever reads sees the old content or the new, never a part. An `OSError`
(full disk, read-only folder, quota) propagates with the file's name in it and leaves no temporary behind; after
`kill -9` a temporary whose name starts with a dot and ends in `.partial` may remain, for `clear_partials`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
LEFT = re.compile(r"\..+\.[0-9a-f]{12}\.partial", re.DOTALL)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there, complete or not at all.

    Raises:
        OSError: the folder is missing, not writable or full; names `path`.
    """
    with appearing(path) as stream:
        stream.write(data)


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A stream to a file that takes its place at `path` when the block ends without an error, complete or not at all.

    For what is too large to be held: otherwise as `write_bytes_atomic`.
    """
    partial = _partial_name(path)
    try:
        with naming(path):
            with partial.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
            fsync_folder(path.parent)
    finally:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8; otherwise as `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON in the order of its keys; NaN and infinity are refused (they are not JSON).

    Raises:
        TypeError, ValueError: `obj` is not JSON.
        OSError: see `write_bytes_atomic`.
    """
    write_text_atomic(path, json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `final` that becomes `final` when the block ends without an error.

    All files and folders inside are flushed before the rename. On any error in the block, KeyboardInterrupt included,
    the temporary folder is removed and `final` is untouched. `final` may exist as an empty folder; the folders above it
    are made.

    Raises:
        FileExistsError: `final` exists and is not an empty folder.
        OSError: the parent folder is not writable or full, or a file is in its place; names the file.
    """
    refuse_occupied(final)
    make_parents(final)
    partial = _partial_name(final)
    with naming(final):
        partial.mkdir()
    try:
        with _named_inside(partial, final):
            yield partial
        with naming(final):
            _fsync_tree(partial)
            partial.rename(final)  # over an empty folder: allowed; over a full one: ENOTEMPTY
            fsync_folder(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_parents(path: Path) -> None:
    """Make the folders above a file or folder that a user wants written. OSError names what is in the way."""
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """An empty temporary folder in `parent` that is gone after the block; after `kill -9` it is one to be cleared."""
    folder = _partial_name(parent / "scratch")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_partials(*folders: Path) -> None:
    """Delete what killed writers left half-written directly in these folders, where nobody may be writing now.

    Links among them are deleted, not followed; a folder that does not exist has none.
    """
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if LEFT.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def open_in_place(path: Path, flags: int) -> int:
    """A descriptor of a plain file that is written where it lies, made where it is missing, never one behind a link.

    Raises:
        OSError: the file is a link or anything but a plain file, or cannot be opened; names `path`.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)  # nor wait at a pipe
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, "Not a plain file", str(path))
    return descriptor


def refuse_occupied(folder: Path) -> None:
    """Raise FileExistsError, with the remedy, if `folder` exists and is anything but an empty folder."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists and is not an empty folder: choose another folder or remove it first")


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to NAME.damaged, in place of an earlier one; its new path. OSError names it."""
    damaged = path.with_name(f"{path.name}.damaged")
    if damaged.is_dir() and not damaged.is_symlink():
        shutil.rmtree(damaged)
    else:
        damaged.unlink(missing_ok=True)
    return path.rename(damaged)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError without a file name (write and fsync raise such) the name of the file that was to appear."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(PARTIAL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def _named_inside(partial: Path, final: Path) -> Iterator[None]:
    """Give an OSError of a file in the temporary folder the name that the file was to have."""
    try:
        yield
    except OSError as error:
        inside = Path(str(error.filename))
        if inside.is_relative_to(partial):
            raise OSError(error.errno, error.strerror, str(final / inside.relative_to(partial))) from error
        raise


def sha256_file(path: Path) -> str:
    """The SHA-256 of the file's bytes, as 64 hexadecimal digits. OSError if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename inside it outlives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_name(path: Path) -> Path:
    """A name beside `path` that no other process, on this or another machine, uses at the same time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{PARTIAL}")


def _fsync_tree(folder: Path) -> None:
    for current, _, names in os.walk(folder):
        for name in names:
            with (Path(current) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        fsync_folder(Path(current))
