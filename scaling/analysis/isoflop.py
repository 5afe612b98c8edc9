"""Parabolas of the score in log N at equal training compute, and how their minima move: the second of Hoffmann's ways.

The minimum of a parabola is not that of L(N, D): it is biased where alpha and beta differ and where the sizes do not
lie evenly about it. Its exponent is a check on `surface`, which has no such bias, and is reported with this warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scaling.analysis.line import fit_line, powers
from scaling.analysis.surface import SurfaceData
from scaling.analysis.table import TableError
from scaling.analysis.uncertainty import Estimates, Interval

NEAR = 0.12  # in the log of compute: runs of one budget
LEAST_SIZES, LEAST_BUDGETS = 4, 3
BIAS = "minima of parabolas are biased where alpha and beta differ or the sizes lie to one side; the surface is not"


@dataclass(frozen=True)
class IsoFlop:
    """The parabola of one budget (training multiply-adds): N*, D* and the score there, over so many rows."""

    compute: float
    rows: int
    n: float
    d: float
    score: float


@dataclass(frozen=True)
class IsoFlops:
    """All parabolas, and N* ~ C^split through their minima; `left_out` says which budgets have no minimum inside."""

    parabolas: tuple[IsoFlop, ...]
    split: Interval | None
    left_out: tuple[str, ...]
    warning: str = BIAS


def fit_isoflops(data: SurfaceData) -> IsoFlops:
    """Group the rows by compute and fit each group. TableError where no two rows share a budget."""
    parabolas, left_out = [], []
    for group in _budgets(data):
        found = _parabola(group)
        if isinstance(found, str):
            left_out.append(f"{float(np.exp(np.log(group.compute).mean())):.3g} MACs: {found}")
        else:
            parabolas.append(found)
    if not parabolas and not left_out:
        raise TableError(f"--law isoflop: no {LEAST_SIZES} rows have training compute within {NEAR:.0%} of each other")
    return IsoFlops(tuple(parabolas), _split(parabolas), tuple(left_out))


def _budgets(data: SurfaceData) -> Iterator[SurfaceData]:
    """Rows of nearly equal compute: the densest neighbourhood first, then the densest of what is left."""
    logs = np.log(data.compute)
    left = np.ones(len(logs), dtype=bool)
    groups = []
    while left.any():
        near = np.abs(logs[:, None] - logs[None, :]) < NEAR
        center = int(np.argmax(np.where(left, (near & left).sum(axis=1), -1)))
        chosen = near[center] & left
        left &= ~chosen
        if len(set(data.n[chosen])) >= LEAST_SIZES:
            groups.append(data.only(chosen))
    yield from sorted(groups, key=lambda group: group.compute.mean())


def _parabola(group: SurfaceData) -> IsoFlop | str:
    """The minimum, or why there is none."""
    x = np.log(group.n)
    center = x.mean()
    curve, slope, level = np.polyfit(x - center, np.log(group.score), 2)
    if curve <= 0:
        return "the parabola does not curve upward"
    place = -slope / (2 * curve) + center
    if not x.min() < place < x.max():
        return "its minimum lies outside the sizes"
    compute = float(np.exp(np.log(group.compute).mean()))
    n = float(np.exp(place))
    score = float(np.exp(level - slope**2 / (4 * curve)))
    pairs = float(np.exp(np.log(group.n * group.d).mean()))
    return IsoFlop(compute, len(x), n, pairs / n, score)


def _split(parabolas: list[IsoFlop]) -> Interval | None:
    if len(parabolas) < LEAST_BUDGETS:
        return None
    compute, n = (np.array([getattr(one, name) for one in parabolas]) for name in ("compute", "n"))
    count = len(n)
    names = tuple(f"{each:.3g}" for each in compute)
    estimates = Estimates(names, compute, np.log(n), np.ones(count, int), np.zeros(count), np.full(count, np.nan))
    return fit_line(estimates, powers(estimates)).coefficient(1)
