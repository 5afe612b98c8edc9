"""Copies of remote shards in a folder that never holds more than was allowed, for any number of processes.

    shards/HASH.tar                  a whole shard, named by its SHA-256, whatever data set it is of
    shards/.HASH.BYTES.part          one that is being fetched, so far; its lock says by whom
    shards/.lock                     held while room is made

What is there survives kills: whole shards are used, and a part is continued by whoever needs it next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from data_pipeline.files import fsync_folder
from data_pipeline.manifest import DataError, ShardInfo
from data_pipeline.remote import Remote

AT_ONCE = 4  # shards that are fetched ahead at once


class ShardCache:
    """The shards of one remote folder, fetched when they are asked for or wanted; the least recently used make room.

    A file that a process has open stays readable for it when it is removed.
    """

    def __init__(self, folder: Path, limit_bytes: int, remote: Remote) -> None:
        self.folder, self.limit_bytes, self._remote = folder / "shards", limit_bytes, remote
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ahead: ThreadPoolExecutor | None = None
        self._wanted: set[str] = set()

    def path(self, shard: ShardInfo) -> Path:
        """The file of a shard, fetched if it is not there. DataError names the shard and the remedy."""
        path = self.folder / f"{shard.sha256}.tar"
        while not _touch(path):
            self._fetch(shard, path)
        return path

    def remedy(self, shard: ShardInfo) -> str:
        """What to do about a file that was whole and is no more."""
        return f"delete {self.folder / shard.sha256}.tar: it is fetched from {self._remote.address} again"

    def want(self, shards: Sequence[ShardInfo]) -> None:
        """Begin to fetch shards that are not there, as many as there is room for at once."""
        room = self.limit_bytes
        for shard in shards:
            room -= shard.bytes
            if room < 0:
                return
            if shard.name not in self._wanted and not (self.folder / f"{shard.sha256}.tar").exists():
                self._ahead = self._ahead or ThreadPoolExecutor(AT_ONCE, "shards")
                self._wanted.add(shard.name)
                self._ahead.submit(self._fetch_ahead, shard)

    def _fetch_ahead(self, shard: ShardInfo) -> None:
        try:
            with suppress(DataError):  # told to whoever reads from the shard
                self.path(shard)
        finally:
            self._wanted.discard(shard.name)

    def _fetch(self, shard: ShardInfo, path: Path) -> None:
        """Fetch a shard, or wait for another that does; after either it may be there, or it is tried again."""
        part = self.folder / f".{shard.sha256}.{shard.bytes}.part"
        with part.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            mine = part.exists() and part.samefile(f"/proc/self/fd/{stream.fileno()}")
            if path.exists() or not mine:  # another fetched it meanwhile, or took the part away
                if mine:
                    part.unlink()
                return
            self._make_room(shard)
            self._remote.append(shard.name, part, shard.bytes)
            self._check(shard, part)
            part.rename(path)
            fsync_folder(self.folder)

    def _make_room(self, shard: ShardInfo) -> None:
        """Remove the least recently used shards, and parts that nobody fetches, until the shard fits too."""
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sizes = {path: size for path, size in self._held() if shard.sha256 not in path.name}
            total = sum(sizes.values()) + shard.bytes
            for path in sorted(sizes, key=_last_used):
                if total <= self.limit_bytes:
                    return
                if path.suffix == ".tar" or _abandoned(path):
                    path.unlink(missing_ok=True)
                    total -= sizes[path]
            if total > self.limit_bytes:
                raise DataError(
                    f"{self.folder}: {total:,} bytes are needed at once, but data.cache_gb allows "
                    f"{self.limit_bytes:,}: raise it"
                )

    def _held(self) -> Iterator[tuple[Path, int]]:
        """Every file of the cache and the bytes that it has, or will have once it is whole."""
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                yield path, int(path.name.split(".")[2])
            elif path.suffix == ".tar":
                with suppress(FileNotFoundError):
                    yield path, path.stat().st_size

    def _check(self, shard: ShardInfo, part: Path) -> None:
        """DataError, with the file gone, unless it has the bytes that the manifest tells."""
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        if found != shard.sha256:
            part.unlink()
            raise DataError(
                f"{self._remote.address}: {shard.name}: its SHA-256 is not the manifest's: it was altered there, or "
                "belongs to another set: upload the folder again"
            )


def _touch(path: Path) -> bool:
    """Note that a file is used now; False where there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _last_used(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _abandoned(part: Path) -> bool:
    """Whether no process holds the lock of a part."""
    try:
        with part.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
