"""Folders of shards that lie elsewhere: any address that fsspec knows, or a command that writes a file to its output.

    https://host/imagenet/train      s3://bucket/imagenet/train      "pipe:ssh host cat /data/train/{}"

A folder here, the mirror, holds the manifest, the indices and `remote.json` with the address; the shards come to
`data_pipeline.cache` as they are needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.files import make_parents, write_bytes_atomic, write_json_atomic
from data_pipeline.manifest import MANIFEST_NAME, DataError, Manifest

PIPE = "pipe:"
NAME = "{}"  # where the name of a file goes in a command
REMOTE_NAME = "remote.json"
CHUNK = 16 * 2**20  # bytes asked for at a time: what is lost where a connection drops
ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0  # seconds; doubled from one attempt to the next
AT_ONCE = 16  # small files that are fetched at once
OURS = "'trigscale[remote]'"
PACKAGES = {"http": OURS, "https": OURS, "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
T = TypeVar("T")

log = logging.getLogger(__name__)


def is_remote(source: str) -> bool:
    """Whether a source of shards is an address rather than a folder."""
    return source.startswith(PIPE) or "://" in source


class Remote:
    """The files of one address."""

    def __init__(self, address: str, sleep: Callable[[float], object] = time.sleep) -> None:
        """sleep: how the time between two attempts passes. DataError for an address that cannot be one."""
        self.address, self._sleep = address, sleep
        self._system: Any = None
        if address.startswith(PIPE) and NAME not in address:
            raise DataError(
                f"{address}: write {NAME} where the name of a file goes, as in 'pipe:ssh host cat /data/train/{NAME}'"
            )

    def whole(self, name: str, limit: int = 2**30) -> bytes:
        """A small file. DataError after several attempts, or at once where there is no such file."""
        return self._patiently(name, lambda: self._part(name, 0, limit))

    def append(self, name: str, path: Path, size: int) -> None:
        """Bring the file at `path`, which holds the first bytes of a remote one of `size` bytes, to its full length.

        Each part that arrives is kept; what a broken connection cut short is asked for again from there. DataError.
        """
        with path.open("ab") as stream:
            while (done := stream.tell()) < size:
                data = self._patiently(name, lambda done=done: self._next(name, done, size))
                stream.write(data)
                stream.flush()

    def _next(self, name: str, done: int, size: int) -> bytes:
        """The bytes of a file after the first `done`, one at least."""
        end = min(size, done + CHUNK)
        data = self._part(name, done, size if self.address.startswith(PIPE) else end)
        if len(data) == size > end - done:  # a server that does not know ranges sends all
            data = data[done:]
        if not 0 < len(data) <= size - done:
            raise OSError(f"bytes {done} to {end} were asked for, {len(data)} came")
        return data

    def _part(self, name: str, start: int, end: int) -> bytes:
        if self.address.startswith(PIPE):
            return self._output(name)[start:end]
        system, root = self._opened()
        path = f"{root.rstrip('/')}/{name}"
        return system.cat_file(path, start=start, end=end) if start or end < 2**30 else system.cat_file(path)

    def _output(self, name: str) -> bytes:
        command = self.address.removeprefix(PIPE).replace(NAME, shlex.quote(name))
        # A pipeline fails where any part of it does: without that, half a file would be taken for all of it.
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"`{command}` ended with {done.returncode}: {done.stderr.decode(errors='replace')[-200:]}")
        return done.stdout

    def _opened(self) -> tuple[Any, str]:
        if self._system is None:
            from fsspec.core import url_to_fs

            try:
                self._system = url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                package = PACKAGES.get(self.address.partition("://")[0])
                remedy = f"pip install {package}" if package else "is it an address that fsspec knows?"
                raise DataError(f"{self.address}: cannot be opened ({error}): {remedy}") from error
        return self._system

    def _patiently(self, name: str, get: Callable[[], T]) -> T:
        """What `get` returns, tried again after ever longer waits. DataError names the file and the last error."""
        for attempt in range(ATTEMPTS):
            try:
                return get()
            except DataError:
                raise
            except (FileNotFoundError, PermissionError) as error:
                raise DataError(f"{self.address}: {name}: {_said(error)}: is the address right?") from error
            except Exception as error:  # each of fsspec's backends has errors of its own
                if attempt == ATTEMPTS - 1:
                    raise DataError(
                        f"{self.address}: {name}: failed {ATTEMPTS} times, last with: {_said(error)}: look at the "
                        "connection and launch again; what was fetched is kept"
                    ) from error
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                log.info("%s: %s: %s; again in %.1f s", self.address, name, _said(error), wait)
                self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def mirror(remote: Remote, cache: Path) -> Path:
    """A folder in the cache with the manifest, the indices and the address; made where it is missing.

    It is named by address and manifest: another manifest at the same address makes another folder. DataError.
    """
    manifest = remote.whole(MANIFEST_NAME)
    key = hashlib.sha256(remote.address.encode() + b"\n" + manifest).hexdigest()[:16]
    folder = cache / "sets" / key
    make_parents(folder / MANIFEST_NAME)
    if not (folder / REMOTE_NAME).exists():
        write_bytes_atomic(folder / MANIFEST_NAME, manifest)
        names = [shard.index_name for shard in Manifest.load(folder).shards]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, data in zip(names, pool.map(remote.whole, names), strict=True):
                write_bytes_atomic(folder / name, data)
        write_json_atomic(folder / REMOTE_NAME, {"address": remote.address})  # last: it says that all is there
    return folder


def address_of(folder: Path) -> str | None:
    """The address whose mirror a folder is; None where it is none."""
    path = folder / REMOTE_NAME
    return json.loads(path.read_text("utf-8"))["address"] if path.exists() else None
