"""Ratios of a student's score to that of its own teacher, their constancy over sizes, and their trend.

The paper's claim is about these: the ratio of sCD is the same at every size, that of sCT is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import fdtrc

from scaling.analysis.line import LineFit, fit_line, points, powers
from scaling.analysis.table import TEACHER, Row, curve_label
from scaling.analysis.uncertainty import (
    JUDGING,
    RESIDUALS,
    SAMPLES,
    SEEDS,
    STATED,
    UNKNOWN,
    Estimates,
    Interval,
    Observation,
    average,
    combine,
    divide,
)

LEVEL = 0.05
FEW_SEEDS = 4
REJECTED, NOT_REJECTED, UNTOLD = "constant rejected", "constant not rejected", "cannot be told"


@dataclass(frozen=True)
class RatioPoint:
    """Ratio at one size: over several seeds the geometric mean; `source` says what its interval comes from."""

    size: str
    macs: float
    seeds: int
    ratio: Interval
    source: str


@dataclass(frozen=True)
class Constancy:
    """Whether one ratio serves for all sizes, at the 5 % level.

    by = "seeds": every size has two seeds or more, and the sizes are compared with their scatter by the F test of the
    analysis of variance, with `dof` numerator and denominator. by = "trend": the constant is nested in a power of the
    size, and is rejected where the whole interval of that power lies on one side of 0. One seed gives no bare p.
    """

    verdict: str
    by: str
    F: float | None = None
    dof: tuple[int, int] | None = None
    p: float | None = None

    @property
    def rejected(self) -> bool:
        """Whether a constant ratio is rejected."""
        return self.verdict == REJECTED


@dataclass(frozen=True)
class RatioCurve:
    """Ratios of one (method, steps) over sizes.

    `mean` is the geometric mean over sizes, whose interval holds their differences, `spread` the standard deviation of
    the ratios; `constancy` and `trend`, the slope of the log ratio against the log of the cost, need two sizes of
    different cost. `notes` say what the intervals leave out. `judges`: whether they hold the scatter between trainings,
    of teachers and students; without it they decide nothing.
    """

    method: str
    steps: int
    points: tuple[RatioPoint, ...]
    mean: Interval
    spread: float | None
    constancy: Constancy | None
    trend: Interval | None
    notes: tuple[str, ...]
    judges: bool
    fit: LineFit | None = field(repr=False, compare=False)


def fit_ratios(rows: Sequence[Row], observed: Sequence[Observation], stated: float | None = None) -> list[RatioCurve]:
    """One curve for each (method, steps) in the order of `rows`; students of sizes without a teacher are left out.

    A student is divided by the teacher of its size and seed; where there is none, by the geometric mean of the teachers
    of its size, and the curve's notes say so. `stated` is the relative noise of one score, where one is assumed.
    """
    teachers: dict[str, dict[int, Observation]] = {}
    for row, one in zip(rows, observed, strict=True):
        if row.method == TEACHER:
            teachers.setdefault(row.size, {})[row.seed] = one
    if not teachers:
        return []
    notes: dict[tuple[str, int], list[str]] = {}
    groups: dict[tuple[str, int], dict[str, list[Observation]]] = {}
    macs: dict[tuple[str, int], dict[str, float]] = {}
    for row, one in zip(rows, observed, strict=True):
        found = teachers.get(row.size)
        if row.method == TEACHER or not found:
            continue
        key = (row.method, row.steps)
        if row.seed not in found:
            notes.setdefault(key, []).append(_stranger(row, found))
        teacher = found.get(row.seed) or average([*found.values()])
        groups.setdefault(key, {}).setdefault(row.size, []).append(divide(one, teacher))
        macs.setdefault(key, {})[row.size] = row.macs
    both = None if stated is None else stated * np.sqrt(2)
    return [fit_curve(*key, combine(group, macs[key], both), notes.get(key, ())) for key, group in groups.items()]


def _stranger(row: Row, found: Mapping[int, Observation]) -> str:
    seeds = ", ".join(map(str, found))
    return (
        f"{curve_label(row.method, row.steps)}, size {row.size}, seed {row.seed}: there is no teacher of that seed; it "
        f"is divided by the mean of what there is (seed {seeds}), whose own scatter is not in the interval"
    )


def fit_curve(method: str, steps: int, estimates: Estimates, notes: Sequence[str] = ()) -> RatioCurve:
    """Points, mean, constancy and trend of the log ratios of one (method, steps)."""
    constant = fit_line(estimates, np.ones((len(estimates.sizes), 1)))
    sloped = fit_line(estimates, powers(estimates), robust=False) if len(set(estimates.macs)) > 1 else None
    each, source = points(estimates, sloped if sloped is not None and sloped.dof else constant)
    ratios = np.exp(estimates.value)
    several = len(ratios) > 1
    trend = sloped.coefficient(1) if sloped else None
    return RatioCurve(
        method=method,
        steps=steps,
        points=tuple(
            RatioPoint(size, float(estimates.macs[i]), int(estimates.seeds[i]), each[i].exp(), source)
            for i, size in enumerate(estimates.sizes)
        ),
        mean=(constant.coefficient(0) if several else each[0]).exp(),
        spread=float(ratios.std(ddof=1)) if several else None,
        constancy=constancy(estimates, constant, sloped) if several else None,
        trend=trend,
        notes=(*_notes(estimates, source), *notes),
        judges=source in JUDGING and not notes,
        fit=sloped,
    )


def constancy(estimates: Estimates, constant: LineFit, sloped: LineFit | None) -> Constancy:
    """Test whether one log ratio serves for all sizes (at least two)."""
    between = len(estimates.sizes) - 1
    if estimates.seeds.min() > 1:
        within = estimates.squares.sum() / estimates.dof
        weights = estimates.seeds
        mean = (weights @ estimates.value) / weights.sum()
        ratio = float(weights @ (estimates.value - mean) ** 2) / between / float(within)
        p = float(fdtrc(between, estimates.dof, ratio))
        return Constancy(REJECTED if p < LEVEL else NOT_REJECTED, "seeds", ratio, (between, estimates.dof), p)
    trend = sloped.coefficient(1) if sloped else None
    if trend is None or not trend.known:
        return Constancy(UNTOLD, "trend")
    return Constancy(NOT_REJECTED if trend.low <= 0 <= trend.high else REJECTED, "trend")


def _notes(estimates: Estimates, source: str) -> tuple[str, ...]:
    counts = " to ".join(str(count) for count in sorted({estimates.seeds.min(), estimates.seeds.max()}))
    if source == SEEDS and estimates.seeds.min() <= FEW_SEEDS:
        return (
            f"few seeds ({counts} a size): the intervals are Student's t with the scatter pooled over sizes "
            f"({estimates.dof} degrees of freedom)",
        )
    if source == RESIDUALS:
        what = "one seed" if estimates.seeds.max() == 1 else f"{counts} seeds a size"
        return (f"{what}: the scatter between trainings is read off how far the sizes lie from a law",)
    if source == SAMPLES:
        return ("one seed and too few sizes: the intervals hold the noise of the samples and not that of trainings",)
    if source == STATED:
        return ("intervals from the stated relative noise alone",)
    if source == UNKNOWN:
        return ("single numbers and too few sizes: nothing is known of the scatter, so there are no intervals",)
    return ()
