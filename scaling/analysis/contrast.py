"""One curve over another: what a technique gains, at the sizes and seeds that both were trained at."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.analysis.ratios import RatioCurve, fit_curve
from scaling.analysis.table import Row
from scaling.analysis.uncertainty import Observation, combine, divide, observe


def contrast(rows: Sequence[Row], first: tuple[str, int], second: tuple[str, int]) -> RatioCurve | None:
    """The ratios of the score of one (method, steps) to that of another; None where they share no size and seed.

    The teacher that both come from cancels, as far as it goes into their scores as a factor.
    """
    scores = {(row.method, row.steps, row.size, row.seed): row for row in rows}
    groups: dict[str, list[Observation]] = {}
    macs: dict[str, float] = {}
    for (method, steps, size, seed), row in scores.items():
        other = scores.get((*second, size, seed))
        if (method, steps) == first and other is not None:
            groups.setdefault(size, []).append(divide(observe(row), observe(other)))
            macs[size] = row.macs
    if not groups:
        return None
    return fit_curve(f"{first[0]} / {second[0]}", first[1], combine(groups, macs, None))
