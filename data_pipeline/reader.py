"""Random access to a folder of shards through its index, every sample checked as it is read.

Each sample is one `pread` at a known offset, not a map of the file: reading a map past the end of a truncated file
kills the process with SIGBUS, while here it is an error that names the shard.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.manifest import INDEX_DTYPE, DataError, Manifest, ShardInfo, sample_key

MAX_OPEN = 256  # descriptors; the usual limit of a process is 1024


class LatentReader:
    """Samples of the shards in `folder` by number, in any order.

    Opening reads the manifest and the indices (16 bytes a sample) and checks them and the shards' sizes; no payload
    is read. Descriptors are opened on first use, so that a reader can be pickled, or forked into worker processes.
    One thread uses a reader at a time.

    Raises:
        DataError: manifest, index or shard is missing or not as the manifest says; names the file and the remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        indices = [self._open_shard(shard) for shard in self.manifest.shards]
        index = np.concatenate(indices)
        self.labels = index["label"].astype(np.int64)
        self._offsets = index["offset"].astype(np.int64)
        self._crc32 = index["crc32"].astype(np.uint32)
        self._ends = np.cumsum([shard.samples for shard in self.manifest.shards])
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return self.manifest.samples

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arrays [B, C, H, W] of the stored dtype and labels int64 [B] of the samples with these numbers, in order.

        Raises:
            IndexError: a number is outside 0..len-1.
            DataError: the shard cannot be read, is cut, or the sample's bytes are not those that were written.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise IndexError(f"sample numbers are {indices.dtype} {list(indices.shape)}, expected integers [B]")
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"sample numbers {indices.min()} to {indices.max()}, but there are {len(self)} samples")
        out = np.empty((len(indices), *self.manifest.shape), np.dtype(self.manifest.dtype).newbyteorder("<"))
        rows = out.reshape(len(indices), math.prod(self.manifest.shape)).view(np.uint8)
        for row, number in zip(rows, indices.tolist(), strict=True):
            self._read_into(row, number)
        return out, self.labels[indices]

    def close(self) -> None:
        """Close all descriptors; the next read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}

    def _open_shard(self, shard: ShardInfo) -> np.ndarray:
        """The index of a shard, checked; and the shard's size, checked."""
        path = self.folder / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise self._damage(shard.name, f"cannot be found ({error.strerror})") from error
        if size != shard.bytes:
            raise self._damage(shard.name, f"has {size} bytes, the manifest says {shard.bytes}")
        try:
            return read_index(self.folder / shard.index_name, self.manifest, shard)
        except DataError as error:
            raise self._damage(shard.index_name, str(error)) from error

    def _read_into(self, row: np.ndarray, number: int) -> None:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        where = f"sample {sample_key(number)}"
        name = self.manifest.shards[shard].name
        try:
            got = _pread_into(row.data, self._descriptor(shard), int(self._offsets[number]))
        except OSError as error:
            raise self._damage(name, f"{where} cannot be read ({error.strerror})") from error
        if got != len(row):
            raise self._damage(name, f"{where} is cut off: {got} of {len(row)} bytes are left")
        if zlib.crc32(row.data) != self._crc32[number]:
            raise self._damage(name, f"{where} is altered: its CRC-32 is not the one in the index")

    def _descriptor(self, shard: int) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(self.folder / self.manifest.shards[shard].name, os.O_RDONLY)
        return self._descriptors[shard]

    def _damage(self, name: str, what: str) -> DataError:
        return DataError(
            f"{self.folder / name}: {what}: pack again or copy the shard again; "
            f"`trigscale data verify {self.folder}` lists every damage"
        )


def _pread_into(buffer: memoryview, descriptor: int, offset: int) -> int:
    """Fill `buffer` from `offset` of the file; fewer bytes than asked for come back only where the file ends."""
    done = 0
    while done < len(buffer) and (got := os.preadv(descriptor, [buffer[done:]], offset + done)):
        done += got
    return done


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
