"""What a law is fitted against: multiply-adds of one pass, parameters, training compute, images seen, sampling
compute with and without decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scaling.analysis.table import Row, TableError

AXES = {
    "macs": "MACs",
    "parameters": "parameters",
    "training": "training MACs",
    "images": "images seen",
    "sampling": "sampling MACs",
    "evaluated": "parameters x NFE",
    "image": "MACs of an image",
}
SHOWN_ROWS = 8


def cost_of(row: Row, axis: str) -> float:
    """The cost of a row on an axis; nan where the table does not say it.

    Of one sample, `sampling` is MACs times NFE, `image` with the decoder too, and `evaluated` is parameters times NFE.
    """
    if axis == "sampling":
        return row.macs * row.nfe
    if axis == "image":
        return math.nan if row.decoder is None else row.macs * row.nfe + row.decoder
    if axis == "evaluated":
        return math.nan if row.parameters is None else row.parameters * row.nfe
    value = getattr(row, axis)
    return math.nan if value is None else value


def default_axis(rows: Sequence[Row]) -> str:
    """The first of multiply-adds, parameters, training compute, images seen that every row has."""
    for axis in ("macs", "parameters", "training", "images"):
        if all(math.isfinite(cost_of(row, axis)) for row in rows):
            return axis
    return "macs"


def on_axis(rows: Sequence[Row], axis: str) -> list[Row]:
    """The rows with their cost on that axis as `macs`. TableError names rows that do not have it."""
    if axis not in AXES:
        raise TableError(f"--against {axis}: give one of {', '.join(AXES)}")
    if axis == "macs" and all(math.isfinite(row.macs) for row in rows):
        return [*rows]
    lacking = [row.place or f"{row.method} {row.size}" for row in rows if not math.isfinite(cost_of(row, axis))]
    if lacking:
        more = f" and {len(lacking) - SHOWN_ROWS} more" if len(lacking) > SHOWN_ROWS else ""
        have = [name for name in AXES if all(math.isfinite(cost_of(row, name)) for row in rows)]
        raise TableError(
            f"--against {axis}: no {AXES[axis]} in {', '.join(lacking[:SHOWN_ROWS])}{more}; every row has "
            f"{', '.join(have) or 'none of the costs'}"
        )
    return [replace(row, macs=cost_of(row, axis)) for row in rows]


def by_metric(rows: Sequence[Row], wanted: str | None = None) -> dict[str, list[Row]]:
    """The rows of each metric, in the order of the table; of `wanted` alone where it is given.

    Metrics are never mixed. TableError where one metric has several N, and where there is no such metric.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.metric, []).append(row)
    if wanted is not None:
        found = {name: group for name, group in groups.items() if name.casefold() == wanted.casefold()}
        if not found:
            raise TableError(f"--metric {wanted}: there is none; the table has {', '.join(groups) or 'no metric'}")
        groups = found
    for name, group in groups.items():
        first = group[0]
        for row in group:
            if row.n != first.n:
                raise TableError(
                    f"{row.place}: {name or 'the score'} at N = {row.n}, {first.place} at N = {first.n}: scores of "
                    "different N do not compare; give one analysis one N"
                )
    return groups
