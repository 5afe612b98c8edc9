"""One curve over another: what a technique gains, at the sizes and seeds that both were trained at."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.analysis.ratios import RatioCurve, fit_curve
from scaling.analysis.table import Row
from scaling.analysis.uncertainty import combine, divide, observe


def contrast(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> RatioCurve | None:
    """The ratios of the score of one (method, steps) to that of another; None where they share no size and seed.

    The teacher that both come from cancels, as far as it goes into their scores as a factor. Sizes at which both have
    the same scores say nothing of scatter and are left out: `indifferent` tells them.
    """
    told = {size: each for size, each in _pairs(rows, first, second).items() if not _equal(each)}
    if not told:
        return None
    groups = {size: [divide(observe(one), observe(other)) for one, other in each] for size, each in told.items()}
    macs = {size: each[-1][0].macs for size, each in told.items()}
    return fit_curve(f"{first[0]} / {second[0]}", first[1], combine(groups, macs, None))


def indifferent(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> list[str]:
    """The sizes at which every pair of scores is equal to the digit: what the two differ in was never used there."""
    return [size for size, each in _pairs(rows, first, second).items() if _equal(each)]


def _equal(pairs: Sequence[tuple[Row, Row]]) -> bool:
    return all(one.fd == other.fd for one, other in pairs)


def _pairs(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> dict[str, list[tuple[Row, Row]]]:
    """By size, the scores of both at the same seed."""
    scores = {(row.method, row.steps, row.size, row.seed): row for row in rows}
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    for (method, steps, size, seed), row in scores.items():
        other = scores.get((*second, size, seed))
        if (method, steps) == first and other is not None:
            pairs.setdefault(size, []).append((row, other))
    return pairs
