"""One curve over another: what a technique gains, at the sizes and seeds that both were trained at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scaling.analysis.ratios import RatioCurve, fit_curve
from scaling.analysis.table import Row
from scaling.analysis.uncertainty import Observation, combine, divide, observe


def contrast(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> RatioCurve | None:
    """The ratios of the score of one (method, steps) to that of another; None where they share no size and seed.

    The teacher that both come from cancels, as far as it goes into their scores as a factor. Sizes at which both have
    the same scores say nothing of scatter and are left out: `indifferent` tells them.
    """
    groups: dict[str, list[Observation]] = {}
    macs: dict[str, float] = {}
    same = indifferent(rows, first, second)
    for row, other in _pairs(rows, first, second):
        if row.size not in same:
            groups.setdefault(row.size, []).append(divide(observe(row), observe(other)))
            macs[row.size] = row.macs
    if not groups:
        return None
    return fit_curve(f"{first[0]} / {second[0]}", first[1], combine(groups, macs, None))


def indifferent(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> list[str]:
    """The sizes at which every pair of scores is equal to the digit: what the two differ in was never used there."""
    equal: dict[str, bool] = {}
    for row, other in _pairs(rows, first, second):
        equal[row.size] = equal.get(row.size, True) and row.fd == other.fd
    return [size for size, always in equal.items() if always]


def _pairs(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> Iterator[tuple[Row, Row]]:
    """The scores of both at the same size and seed."""
    scores = {(row.method, row.steps, row.size, row.seed): row for row in rows}
    for (method, steps, size, seed), row in scores.items():
        other = scores.get((*second, size, seed))
        if (method, steps) == first and other is not None:
            yield row, other
