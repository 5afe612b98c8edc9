"""The full check of a folder of shards: every byte is read, and every damage is listed.

Shards are checked in processes, while this one takes the content hash, which goes through all of them in order: the
rate of SHA-256 on one core, or of the disk, is the limit.
"""

from __future__ import annotations

import io
import os
import tarfile
import tokenize
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.checksum import checksum
from data_pipeline.content import hash_content
from data_pipeline.files import sha256_file
from data_pipeline.manifest import DataError, Manifest, ShardInfo, sample_key
from data_pipeline.reader import read_index

SHOWN = 5  # damaged samples listed per shard
WORTHWHILE = 2**28  # bytes for which a process is started


def verify(folder: Path, processes: int | None = None) -> Manifest:
    """Check all files of a folder of shards against each other and return the manifest.

    processes: that check shards, each its own; 1: this one alone; None: as many as the cores and the set's size merit.

    For each shard: size and SHA-256; the tar's header checksums and its end-of-archive record (a tar cut between two
    members looks whole to most readers); each sample's key, label, shape, dtype, offset and checksum against the index;
    the index's own hash. For the whole: the content hash, and shards that the manifest does not know.

    Raises:
        DataError: lists all damages with their files, and the remedy.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    firsts = accumulate((shard.samples for shard in manifest.shards), initial=0)
    jobs = [(folder, manifest, shard, first) for shard, first in zip(manifest.shards, firsts, strict=False)]
    content = None
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)), sum(shard.bytes for shard in manifest.shards) // WORTHWHILE)
    if (processes := min(processes, len(jobs))) > 1:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            found = [pool.submit(_verify_shard, *job) for job in jobs]
            with suppress(DataError):  # the check of that shard says more
                content = hash_content(folder, manifest)
            damages = [damage for future in found for damage in future.result()]
    else:
        damages = [damage for job in jobs for damage in _verify_shard(*job)]
    if not damages:
        content = content or hash_content(folder, manifest)
        if content != manifest.content_sha256:
            damages.append(f"content SHA-256 is {content}, the manifest says {manifest.content_sha256}")
    known = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    damages += [
        f"{path.name}: is not in the manifest" for path in sorted(folder.glob("shard-*")) if path.name not in known
    ]
    if damages:
        count = "1 damage" if len(damages) == 1 else f"{len(damages)} damages"
        listed = "".join(f"\n  {damage}" for damage in damages)
        raise DataError(f"{folder}: {count}: pack again or copy the named files again{listed}")
    return manifest


def _verify_shard(folder: Path, manifest: Manifest, shard: ShardInfo, first: int) -> list[str]:
    """All damages of one shard and its index."""
    damages: list[str] = []
    index = None
    try:
        index = read_index(folder / shard.index_name, manifest, shard)
    except DataError as error:
        damages.append(f"{shard.index_name}: {error}")
    path = folder / shard.name
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            damages.append(f"{shard.name}: has {size} bytes, the manifest says {shard.bytes}")
        elif sha256_file(path) != shard.sha256:
            damages.append(f"{shard.name}: SHA-256 is not the manifest's")
        found = list(_scan(path, manifest, shard, index, first))
    except OSError as error:
        return [*damages, f"{shard.name}: cannot be read ({error.strerror})"]
    damages += [f"{shard.name}: {what}" for what in found[:SHOWN]]
    if len(found) > SHOWN:
        damages.append(f"{shard.name}: and {len(found) - SHOWN} more")
    return damages


def _scan(path: Path, manifest: Manifest, shard: ShardInfo, index: np.ndarray | None, first: int) -> Iterator[str]:
    """Walk through the tar, member by member, and yield what is wrong."""
    with path.open("rb") as stream:
        members = _members(stream, path.stat().st_size)
        for number in range(shard.samples):
            key = sample_key(first + number)
            try:
                label = _next(members, f"{key}.cls")[1]
                end, member = _next(members, f"{key}.npy")
                raw = _raw_array(member, manifest)
                value = _label(label)
            except DataError as error:
                yield f"sample {key} and what follows it: {error}"
                return
            if index is not None and (value, end - len(raw)) != (index["label"][number], index["offset"][number]):
                yield f"sample {key}: label or place differ from the index"
            elif index is not None and checksum(raw) != index["checksum"][number]:
                yield f"sample {key}: is altered: its checksum is not the one in the index"
        try:
            for name, _, _ in members:
                yield f"holds {name} after its last sample"
        except DataError as error:
            yield f"after the last sample: {error}"


def _members(stream: BinaryIO, size: int) -> Iterator[tuple[str, int, bytes]]:
    """Name, end of the data in the file, and data of every member of a tar; returns at the end-of-archive record.

    DataError for a bad header, a cut member, or a missing end-of-archive record. `size` is that of the file.
    """
    while header := stream.read(tarfile.BLOCKSIZE):
        if header == bytes(tarfile.BLOCKSIZE) and stream.read(tarfile.BLOCKSIZE) == header:
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise DataError(f"no whole tar header where one must be ({error})") from error
        start = stream.tell()
        if not info.isreg() or not 0 <= info.size <= size - start:
            raise DataError(f"{info.name} is cut off or not a file: {info.size} bytes, {size - start} are left")
        yield info.name, start + info.size, stream.read(info.size)
        stream.seek(-info.size % tarfile.BLOCKSIZE, io.SEEK_CUR)
    raise DataError("the tar ends without an end-of-archive record: it was cut")


def _next(members: Iterator[tuple[str, int, bytes]], expected: str) -> tuple[int, bytes]:
    name, end, data = next(members, ("the end of the archive", 0, b""))
    if name != expected:
        raise DataError(f"{name} where {expected} must be")
    return end, data


def _label(data: bytes) -> int:
    if not (data.isdigit() and len(data) <= 10):
        raise DataError(f"its label is {data[:20]!r}, expected digits")
    return int(data)


def _raw_array(member: bytes, manifest: Manifest) -> memoryview:
    """The raw array bytes of a .npy member whose header agrees with the manifest."""
    written = _header(manifest.dtype, manifest.shape)
    if member.startswith(written) and len(member) == len(written) + manifest.sample_bytes:
        return memoryview(member)[len(written) :]
    stream = io.BytesIO(member)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, tokenize.TokenError) as error:  # numpy lets the second escape
        raise DataError(f"its .npy header cannot be read ({error})") from error
    raw = memoryview(member)[stream.tell() :]
    stored = np.dtype(manifest.dtype).newbyteorder("<")
    if (
        version != (1, 0)
        or fortran_order
        or (shape, dtype, len(raw)) != (manifest.shape, stored, manifest.sample_bytes)
    ):
        raise DataError(f"it is {dtype} {list(shape)} of {len(raw)} bytes, not as the manifest says")
    return raw


@cache
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header that our writer gives such an array; numpy takes longer to parse it than to hash 64 KiB."""
    buffer = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(np.empty(shape, np.dtype(dtype).newbyteorder("<")))
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
