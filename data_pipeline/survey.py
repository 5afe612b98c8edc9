"""What the samples of a set are as a whole: how evenly its classes are filled, and which samples repeat others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.reader import LatentReader

SHOWN = 5  # groups of duplicates


@dataclass(frozen=True)
class Survey:
    """Samples of the smallest and largest class (and which), groups of equal samples, and what they come to.

    duplicates: samples less different samples. conflicting: groups whose samples have different labels.
    """

    smallest: int
    smallest_class: int
    largest: int
    largest_class: int
    duplicates: int
    conflicting: int
    groups: tuple[tuple[int, ...], ...]

    def lines(self) -> list[str]:
        """For people."""
        balance = (
            f"samples a class: {self.smallest:,} (class {self.smallest_class}) to {self.largest:,} "
            f"(class {self.largest_class})"
        )
        if not self.duplicates:
            return [balance, "no sample repeats another"]
        listed = "; ".join(", ".join(map(str, group[:SHOWN])) for group in self.groups[:SHOWN])
        more = "; ..." if len(self.groups) > SHOWN else ""
        labels = f", {self.conflicting:,} groups under several labels" if self.conflicting else ""
        return [balance, f"{self.duplicates:,} samples repeat others{labels}: {listed}{more}"]


def survey(folder: Path) -> Survey:
    """Look over a folder of shards: labels and checksums of the indices, and only samples whose checksums are equal.

    DataError for damage.
    """
    reader = LatentReader(folder)
    counts = np.bincount(reader.labels, minlength=reader.manifest.num_classes)
    groups = _equal(reader)
    return Survey(
        smallest=int(counts.min()),
        smallest_class=int(counts.argmin()),
        largest=int(counts.max()),
        largest_class=int(counts.argmax()),
        duplicates=sum(len(group) - 1 for group in groups),
        conflicting=sum(len(np.unique(reader.labels[list(group)])) > 1 for group in groups),
        groups=groups,
    )


def _equal(reader: LatentReader) -> tuple[tuple[int, ...], ...]:
    """Groups of the numbers of equal samples. Checksums of 32 bits agree by chance among many: bytes tell."""
    order = np.argsort(reader.checksums, kind="stable")
    starts = np.flatnonzero(np.diff(reader.checksums[order], prepend=reader.checksums[order[0]] ^ 1))
    sizes = np.diff(np.append(starts, len(order)))
    groups: list[tuple[int, ...]] = []
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        by_bytes: dict[bytes, list[int]] = {}
        for number in order[start : start + size].tolist():
            by_bytes.setdefault(reader.read(np.array([number]))[0].tobytes(), []).append(number)
        groups += [tuple(numbers) for numbers in by_bytes.values() if len(numbers) > 1]
    return tuple(sorted(groups))
