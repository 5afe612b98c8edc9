"""Write samples as webdataset tar shards with an index for random access and a manifest.

Any webdataset reader can stream the shards; `data_pipeline.reader` reads them at random through the index. The bytes
depend on the samples and the arguments alone: no time, user or machine enters them.
"""

from __future__ import annotations

import hashlib
import io
import operator
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from webdataset.writer import TarWriter

from data_pipeline.checksum import checksum
from data_pipeline.files import atomic_folder, naming, sha256_file, write_bytes_atomic
from data_pipeline.manifest import (
    DTYPES,
    FORMAT,
    INDEX_DTYPE,
    ContentHash,
    DataError,
    Manifest,
    ShardInfo,
    sample_key,
    shard_name,
)
from data_pipeline.text import is_safe, shown


def write_shards(
    samples: Iterable[tuple[np.ndarray, int]],
    folder: Path,
    *,
    dataset: str,
    encoder: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    samples_per_shard: int = 10_000,
) -> Manifest:
    """Write (array [C, H, W] float16 or float32, label) pairs into `folder`, whole or not at all; return the manifest.

    The first sample sets shape and dtype. `class_names` [num_classes] stand in the manifest alone: neither the shards'
    bytes nor `content_sha256` depend on them. `samples` is read once, one shard's index in memory at a time; the folder
    needs the space of the whole data set only once.

    Raises:
        DataError: no samples, a label outside 0..num_classes-1, another shape or dtype than the first sample's, a
            dtype that is not stored, or a non-finite value; names the sample. A name with control characters.
        FileExistsError: `folder` exists and is not empty.
        OSError: it cannot be written; names the file. Nothing is left behind.
    """
    if samples_per_shard < 1 or num_classes < 1:
        raise ValueError(f"samples_per_shard = {samples_per_shard}, num_classes = {num_classes}: both must be positive")
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
    require_safe(dataset, encoder, *(class_names or ()))
    remaining = iter(samples)
    first = next(remaining, None)
    if first is None:
        raise DataError(f"{folder}: there are no samples to write")
    shape, dtype = _kind(first[0])
    content = ContentHash(shape, dtype)
    checked = checked_samples(chain([first], remaining), shape, dtype, num_classes)
    with atomic_folder(folder) as partial:
        shards: list[ShardInfo] = []
        while group := list(islice(checked, 1)):
            done = sum(shard.samples for shard in shards)
            rest = islice(checked, samples_per_shard - 1)
            shards.append(write_shard(chain(group, rest), partial, shard_name(len(shards)), done, content))
        total = sum(shard.samples for shard in shards)
        names = None if class_names is None else tuple(class_names)
        manifest = Manifest(
            FORMAT, dataset, encoder, shape, dtype, num_classes, total, tuple(shards), content.hexdigest(), names
        )
        manifest.save(partial)
    return manifest


def require_safe(*names: str) -> None:
    """DataError for a name that a terminal would obey."""
    for name in names:
        if not is_safe(name):
            raise DataError(f"the name {shown(name)} holds control characters: rename the file or folder it comes from")


def _kind(array: np.ndarray) -> tuple[tuple[int, int, int], str]:
    """Shape and dtype that the first sample sets for all."""
    if array.ndim != 3 or array.size == 0 or array.dtype.name not in DTYPES:
        raise DataError(
            f"sample {sample_key(0)} is {array.dtype} {list(array.shape)}, expected [C, H, W] of {' or '.join(DTYPES)}"
        )
    channels, height, width = array.shape
    return (channels, height, width), array.dtype.name


def checked_samples(
    samples: Iterable[tuple[np.ndarray, int]], shape: tuple[int, ...], dtype: str, num_classes: int, start: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """The samples as little-endian arrays in C order and plain integers; DataError at the first that is not valid.

    `start` is the number of the first in the whole data set.
    """
    stored = np.dtype(dtype).newbyteorder("<")
    for number, (array, label) in enumerate(samples, start=start):
        where = f"sample {sample_key(number)}"
        if array.shape != shape or array.dtype.name != dtype:
            raise DataError(f"{where} is {array.dtype} {list(array.shape)}, the first is {dtype} {list(shape)}")
        if not np.isfinite(array).all():
            raise DataError(
                f"{where} holds NaN or infinity: the encoder overflowed {dtype}, or its input is not finite"
            )
        value = operator.index(label)
        if not 0 <= value < num_classes:
            raise DataError(f"{where} has label {value}, expected 0 to {num_classes - 1}")
        yield np.ascontiguousarray(array, stored), value


def write_shard(
    samples: Iterable[tuple[np.ndarray, int]], folder: Path, name: str, first: int, content: ContentHash | None = None
) -> ShardInfo:
    """Write one tar and its index; `first` is the number of its first sample in the whole data set.

    The samples are those of `checked_samples`; they are added to `content` where it is given. OSError names the file.
    """
    path = folder / name
    rows: list[tuple[int, int, int]] = []
    # With mtime left out, or a float, tarfile adds PAX records of 2 KiB a sample that hold the time of day.
    with (
        naming(path),
        path.open("xb") as stream,
        TarWriter(stream, encoder=False, compress=False, mtime=0) as tar,
    ):
        for number, (array, label) in enumerate(samples, start=first):
            raw = array.tobytes()
            member = _npy_bytes(array)
            tar.write({"__key__": sample_key(number), "cls": str(label).encode("ascii"), "npy": member})
            # TarWriter sorts the extensions, so .npy is last and its padded bytes end where the tar ends now.
            padded = -(-len(member) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            rows.append((tar.tarstream.offset - padded + len(member) - len(raw), label, checksum(raw)))
            if content is not None:
                content.update(raw, label)
    index = _npy_bytes(np.array(rows, INDEX_DTYPE))
    info = ShardInfo(name, path.stat().st_size, len(rows), sha256_file(path), hashlib.sha256(index).hexdigest())
    write_bytes_atomic(folder / info.index_name, index)
    return info


def _npy_bytes(array: np.ndarray) -> bytes:
    """The bytes of a .npy file, version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
