"""Random access to a folder of shards through its index, every sample checked as it is read.

Each sample is one `preadv` at a known offset, not a map of the file: reading a map past the end of a truncated file
kills the process with SIGBUS, while here it is an error that names the shard.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.checksum import checksum
from data_pipeline.manifest import INDEX_DTYPE, DataError, Manifest, ShardInfo, sample_key

MAX_OPEN = 256  # files; the usual limit of a process is 1024
UNREADABLE = -1  # in place of an offset


class Rows:
    """Memory for a batch of samples: `array` [B, C, H, W] of the stored dtype, and each row of it as bytes."""

    def __init__(self, array: np.ndarray) -> None:
        """array: C-contiguous; it is written to, not copied."""
        self.array = array
        whole = array.reshape(-1).view(np.uint8).data
        size = whole.nbytes // max(1, len(array))
        self.buffers = [[whole[start : start + size]] for start in range(0, whole.nbytes, size)] if len(array) else []


class ShardStore(Protocol):
    """Shards that do not lie beside their manifest."""

    def path(self, shard: ShardInfo) -> Path:
        """A file with the shard's bytes, once it is there. DataError names the shard and the remedy."""
        ...

    def want(self, shards: Sequence[ShardInfo]) -> None:
        """Begin to fetch shards that will be asked for, in this order."""
        ...

    def remedy(self, shard: ShardInfo) -> str:
        """What to do about a file that is damaged here."""
        ...


class LatentReader:
    """Samples of the shards in `folder` by number, in any order, by any number of threads.

    Opening reads the manifest and the indices and checks them and the shards' sizes; no payload is read. What is kept
    is 20 bytes a sample. Files are opened on first use, so that a reader can be pickled, or forked into processes.

    damaged: what is wrong with each shard found damaged so far, by its number.
    """

    def __init__(self, folder: Path, *, store: ShardStore | None = None, lenient: bool = False) -> None:
        """store: where the shards lie; None: in `folder`.

        lenient: a shard that is missing or not as the manifest says is no error here, its samples cannot be read.

        Raises:
            DataError: manifest, index or shard is missing or not as the manifest says; names the file and the remedy.
        """
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self.damaged: dict[int, str] = {}
        self._store = store
        self._ends = np.cumsum([shard.samples for shard in self.manifest.shards])
        self.labels = np.zeros(len(self), np.int64)
        self._offsets = np.full(len(self), UNREADABLE, np.int64)
        self.checksums = np.zeros(len(self), np.uint32)
        self._files: dict[int, io.FileIO] = {}
        self._opening = threading.Lock()
        for number in range(len(self.manifest.shards)):
            try:
                self._open_shard(number)
            except DataError as error:
                if not lenient:
                    raise
                self.damaged[number] = str(error)

    def __len__(self) -> int:
        return self.manifest.samples

    def rows(self, count: int) -> Rows:
        """New memory for `count` samples."""
        return Rows(np.empty((count, *self.manifest.shape), np.dtype(self.manifest.dtype).newbyteorder("<")))

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arrays [B, C, H, W] of the stored dtype and labels int64 [B] of the samples with these numbers, in order.

        Raises:
            IndexError: a number is outside 0..len-1.
            DataError: the shard cannot be read, is cut, or the sample's bytes are not those that were written.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise IndexError(f"sample numbers are {indices.dtype} {list(indices.shape)}, expected integers [B]")
        rows = self.rows(len(indices))
        for error in self.read_into(rows, indices).values():
            raise error
        return rows.array, self.labels[indices]

    def read_into(self, rows: Rows, indices: np.ndarray) -> dict[int, DataError]:
        """Fill the rows with the samples of these numbers; of those that cannot be read, the error by row.

        Raises IndexError for a number outside 0..len-1.
        """
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"sample numbers {indices.min()} to {indices.max()}, but there are {len(self)} samples")
        failed: dict[int, DataError] = {}
        size, preadv, files = self.manifest.sample_bytes, os.preadv, self._files
        numbers, offsets, sums = indices.tolist(), self._offsets[indices].tolist(), self.checksums[indices].tolist()
        shards = np.searchsorted(self._ends, indices, side="right").tolist()
        for row in np.argsort(indices, kind="stable").tolist():  # files are read forward
            buffer, offset, file = rows.buffers[row], offsets[row], files.get(shards[row])
            try:
                whole = file is not None and offset != UNREADABLE and preadv(file.fileno(), buffer, offset) == size
            except OSError:
                whole = False
            if not whole or checksum(buffer[0]) != sums[row]:  # damaged; or not open yet, or a short read
                try:
                    self._read_one(buffer, shards[row], numbers[row])
                except DataError as error:
                    failed[row] = error
        return failed

    def prepare(self, *windows: np.ndarray) -> None:
        """Have what is soon read brought nearer: runs of consecutive samples [n, 2], each a first sample and a count.

        Shards of a store are fetched, in the order in which the windows name them. Of files at hand, the runs of a
        window that is only a part of the data are read ahead by the system.
        """
        runs = [(first, first + count) for window in windows for first, count in window.tolist()]
        spans = [(shard, *run) for run in runs for shard in self._shards_of(*run)]
        if self._store is not None:
            self._store.want([self.manifest.shards[shard] for shard in dict.fromkeys(shard for shard, *_ in spans)])
        elif len(windows[-1]) > 1:
            for shard, first, end in spans[-len(windows[-1]) :]:
                self._advise(shard, first, end)

    def close(self) -> None:
        """Close all files; the next read opens them again."""
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_opening": threading.Lock()}

    def _open_shard(self, number: int) -> None:
        """Take over the index of a shard, checked; and check the size of a shard that lies in the folder."""
        shard = self.manifest.shards[number]
        if self._store is None:
            try:
                size = (self.folder / shard.name).stat().st_size
            except OSError as error:
                raise self._damage(shard.name, f"cannot be found ({error.strerror})") from error
            if size != shard.bytes:
                raise self._damage(shard.name, f"has {size} bytes, the manifest says {shard.bytes}")
        try:
            index = read_index(self.folder / shard.index_name, self.manifest, shard)
        except DataError as error:
            raise self._damage(shard.index_name, str(error)) from error
        part = slice(self._ends[number] - shard.samples, self._ends[number])
        self.labels[part], self._offsets[part] = index["label"], index["offset"]
        self.checksums[part] = index["checksum"]

    def _read_one(self, buffer: list[memoryview], shard: int, number: int) -> None:
        """Fill the buffer with a sample of the shard. DataError, which says why it cannot be."""
        offset = int(self._offsets[number])
        if offset == UNREADABLE:
            raise DataError(self.damaged[shard])
        try:
            file = self._files.get(shard) or self._open(shard)
            got = os.preadv(file.fileno(), buffer, offset)
            size = len(buffer[0])
            # Network file systems may return fewer bytes than asked for; none come back only where the file ends.
            while got < size and (more := os.preadv(file.fileno(), [buffer[0][got:]], offset + got)):
                got += more
        except OSError as error:
            raise self._unreadable(shard, number, f"cannot be read ({error.strerror})") from error
        except DataError as error:  # it could not be located: nor will its other samples be
            self.damaged.setdefault(shard, str(error))
            self._offsets[self._ends[shard] - self.manifest.shards[shard].samples : self._ends[shard]] = UNREADABLE
            raise
        if got != size:
            raise self._unreadable(shard, number, f"is cut off: {got} of {size} bytes are left")
        if checksum(buffer[0]) != self.checksums[number]:
            raise self._unreadable(shard, number, "is altered: its checksum is not the one in the index")

    def _open(self, shard: int) -> io.FileIO:
        """The file of a shard. One that is dropped here closes once no thread reads from it any more."""
        info = self.manifest.shards[shard]
        path = self.folder / info.name if self._store is None else self._store.path(info)
        opened = path.open("rb", buffering=0)
        with self._opening:
            while len(self._files) >= MAX_OPEN:
                del self._files[next(iter(self._files))]
            self._files[shard] = opened
        return opened

    def _shards_of(self, first: int, end: int) -> range:
        """The numbers of the shards that hold the samples first .. end - 1."""
        low, high = np.searchsorted(self._ends, [first, end - 1], side="right").tolist()
        return range(low, high + 1)

    def _advise(self, shard: int, first: int, end: int) -> None:
        """Ask the system to read those of the samples first .. end - 1 that this shard holds; damage is found later."""
        last = min(end, int(self._ends[shard])) - 1
        first = max(first, int(self._ends[shard]) - self.manifest.shards[shard].samples)
        start, stop = int(self._offsets[first]), int(self._offsets[last]) + self.manifest.sample_bytes
        if start != UNREADABLE:
            with suppress(OSError):
                file = self._files.get(shard) or self._open(shard)
                os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)

    def _unreadable(self, shard: int, number: int, what: str) -> DataError:
        info = self.manifest.shards[shard]
        remedy = None if self._store is None else self._store.remedy(info)
        error = self._damage(info.name, f"sample {sample_key(number)} {what}", remedy)
        self.damaged.setdefault(shard, str(error))
        return error

    def _damage(self, name: str, what: str, remedy: str | None = None) -> DataError:
        listed = f"`trigscale data verify {self.folder}` lists every damage"
        remedy = remedy or f"pack again or copy the shard again; {listed}"
        return DataError(f"{self.folder / name}: {what}: {remedy}")


def read_index(path: Path, manifest: Manifest, shard: ShardInfo) -> np.ndarray:
    """The index of one shard, a structured array [samples] of `INDEX_DTYPE`, checked against the manifest.

    Raises:
        DataError: says what is wrong, without the file's name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError("SHA-256 is not the manifest's")
    try:
        index = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise DataError(f"is not a .npy file ({error})") from error
    if index.dtype != INDEX_DTYPE or index.shape != (shard.samples,):
        raise DataError(f"holds {index.dtype} {list(index.shape)}, expected [{shard.samples}] of {INDEX_DTYPE}")
    if index["label"].min() < 0 or index["label"].max() >= manifest.num_classes:
        raise DataError(f"holds labels outside 0 to {manifest.num_classes - 1}")
    if index["offset"].min() < 0 or index["offset"].max() + manifest.sample_bytes > shard.bytes:
        raise DataError("holds offsets outside the shard")
    return index
