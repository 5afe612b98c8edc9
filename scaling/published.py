"""What the papers print for each size of a family, beside which our own networks stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from models.family import Family, count_macs, count_parameters
from models.network import NetworkConfig
from scaling.analysis.table import PUBLISHED, load_table

# The tables of a family, and of those the one whose multiply-adds were printed rather than counted by us.
TABLES = {
    "img512": ("scm-imagenet512.csv", "edm2-imagenet512.csv"),
    "img64": ("scm-imagenet64.csv", "edm2-imagenet64.csv"),
}
MACS_PRINTED = "img512"
TEACHERS = ("edm2", "edm2-guided", "teacher")
# Columns of the terminal's table: heading, and the keys of `published_fids` that it shows.
COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("EDM2", ("edm2", "edm2-guided")),
    ("teacher", ("teacher",)),
    ("sCT", ("sct-1", "sct-2")),
    ("sCD", ("scd-1", "scd-2")),
    ("sCD+VSD", ("scd+vsd-1", "scd+vsd-2")),
)


def published_fids(family: str) -> dict[str, dict[str, float]]:
    """The published FIDs of a family by size and "method" or "method-steps"; empty where nothing was published."""
    found: dict[str, dict[str, float]] = {}
    for table in TABLES.get(family, ()):
        for row in load_table(PUBLISHED / table):
            key = row.method if row.method in TEACHERS else f"{row.method}-{row.steps}"
            found.setdefault(row.size.lower(), {})[key] = row.fd
    return found


def published_macs(family: str) -> dict[str, float]:
    """The published multiply-adds of one forward pass by size."""
    if family != MACS_PRINTED:
        return {}
    return {row.size.lower(): row.macs for row in load_table(PUBLISHED / TABLES[family][0])}


def describe_sizes(family: Family) -> list[dict[str, Any]]:
    """One record a size: family, size, model_channels, parameters, macs, and what was published of it."""
    macs, fids, printed = macs_by_size(family.sizes), published_fids(family.name), published_macs(family.name)
    return [
        {
            "family": family.name,
            "size": size,
            "model_channels": config.model_channels,
            "parameters": count_parameters(config),
            "macs": macs[size],
            "published_macs": printed.get(size),
            "published_fid": fids.get(size, {}),
        }
        for size, config in family.sizes.items()
    ]


def macs_by_size(sizes: Mapping[str, NetworkConfig]) -> dict[str, int]:
    """Multiply-adds of one forward pass of each size.

    Sizes that differ in model_channels C alone cost exactly a C^2 + b C (every layer joins two widths, or one width
    and a fixed number of channels, classes or pixels): two are counted, the rest follow.
    """
    groups: dict[NetworkConfig, list[str]] = {}
    for size, config in sizes.items():
        groups.setdefault(replace(config, model_channels=0), []).append(size)
    return {size: macs for group in groups.values() for size, macs in _group_macs(sizes, group).items()}


def _group_macs(sizes: Mapping[str, NetworkConfig], group: Sequence[str]) -> dict[str, int]:
    channels = {size: sizes[size].model_channels for size in group}
    distinct = {c: size for size, c in channels.items()}
    counted = [(c, count_macs(sizes[size])) for c, size in sorted(distinct.items())[:2]]
    c1, m1 = counted[0]
    if len(counted) == 1:
        return dict.fromkeys(group, m1)
    c2, m2 = counted[1]
    square = (Fraction(m2, c2) - Fraction(m1, c1)) / (c2 - c1)
    linear = Fraction(m1, c1) - square * c1
    return {size: int(square * c**2 + linear * c) for size, c in channels.items()}
