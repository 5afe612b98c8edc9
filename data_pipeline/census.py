"""What a set holds of each class, and which samples are copies of others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.manifest import DataError, Manifest, sample_key
from data_pipeline.reader import read_index

SHOWN = 5


@dataclass(frozen=True)
class Census:
    """counts [num_classes]: samples of each class. copies: (sample, the earlier one whose bytes it has, same label)."""

    counts: np.ndarray
    copies: tuple[tuple[int, int, bool], ...]


def take_census(folder: Path) -> Census:
    """Counted from the indices; only samples whose checksums agree are read and compared. DataError for damage."""
    manifest = Manifest.load(folder)
    parts = []
    for shard in manifest.shards:
        try:
            parts.append(read_index(folder / shard.index_name, manifest, shard))
        except DataError as error:
            raise DataError(
                f"{folder / shard.index_name}: {error}: `trigscale data verify {folder}` tells more"
            ) from None
    index = np.concatenate(parts)
    counts = np.bincount(index["label"], minlength=min(manifest.num_classes, int(index["label"].max()) + 1))
    return Census(counts, tuple(_copies(folder, manifest, index)))


def _copies(folder: Path, manifest: Manifest, index: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """Every sample after the first of those with the same bytes."""
    order = np.argsort(index["checksum"], kind="stable")
    same = index["checksum"][order][1:] == index["checksum"][order][:-1]
    starts = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0))
    for first, last in starts.reshape(-1, 2).tolist():
        seen: dict[bytes, int] = {}
        for number in order[first : last + 1].tolist():
            earlier = seen.setdefault(_raw(folder, manifest, index, number), number)
            if earlier != number:
                yield number, earlier, bool(index["label"][number] == index["label"][earlier])


def _raw(folder: Path, manifest: Manifest, index: np.ndarray, number: int) -> bytes:
    ends = np.cumsum([shard.samples for shard in manifest.shards])
    shard = manifest.shards[int(np.searchsorted(ends, number, side="right"))]
    with (folder / shard.name).open("rb", buffering=0) as stream:
        return os.pread(stream.fileno(), manifest.sample_bytes, int(index["offset"][number]))


def describe_census(census: Census, num_classes: int, names: Sequence[str] | None) -> list[str]:
    """In words: how many samples the classes have, and the first copies."""
    least, most = int(census.counts.argmin()), int(census.counts.argmax())
    low, high = int(census.counts[least]), int(census.counts[most])
    if len(census.counts) < num_classes:  # the last ones have none
        least, low = len(census.counts), 0
    called = [f"{label} ({names[label]})" if names else f"{label}" for label in (least, most)]
    each = f"{low:,} samples each" if low == high else f"{low:,} (class {called[0]}) to {high:,} ({called[1]}) samples"
    lines = [f"classes: {num_classes:,}, {each}"]
    if census.copies:
        listed = ", ".join(f"{sample_key(a)} = {sample_key(b)}" for a, b, _ in census.copies[:SHOWN])
        other = sum(not same for _, _, same in census.copies)
        more = ", ..." if len(census.copies) > SHOWN else ""
        lines.append(
            f"copies: {len(census.copies):,} samples have the bytes of an earlier one, {other:,} of them under another "
            f"label: {listed}{more}"
        )
    return lines
