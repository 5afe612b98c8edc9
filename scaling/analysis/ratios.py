"""Ratios of a student's distance to that of its own teacher, their constancy over sizes, and their trend.

The paper's claim is about these: the ratio of sCD is the same at every size, that of sCT is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.analysis.least_squares import log_slope, misfit
from scaling.analysis.table import TEACHER, Row, curve_label
from scaling.analysis.uncertainty import (
    SAMPLES,
    SEEDS,
    Estimates,
    Interval,
    Observation,
    Resampling,
    average,
    combine,
    divide,
    interval,
)

LEVEL = 0.05
FEW_SEEDS = 4


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
    """Chi-square test that the log ratio is one number at all sizes, at the 5 % level.

    Over the standard errors of the points, which are independent: students of different sizes share no teacher. Where
    the standard errors were themselves estimated from seeds, p is that of the F distribution.
    """

    chi2: float
    dof: int
    p: float
    verdict: str

    @property
    def rejected(self) -> bool:
        """Whether a constant ratio is rejected."""
        return self.p < LEVEL


@dataclass(frozen=True)
class RatioCurve:
    """Ratios of one (method, steps) over sizes.

    `mean` is the arithmetic mean of the points; `constancy` and `trend`, the slope of the log ratio against the log of
    the multiply-adds, need two sizes of different cost. `notes` say what the intervals leave out. `judges`: whether
    they hold the scatter between trainings, of teachers and students; without it they decide nothing.
    """

    method: str
    steps: int
    points: tuple[RatioPoint, ...]
    mean: Interval
    constancy: Constancy | None
    trend: Interval | None
    notes: tuple[str, ...]
    judges: bool


def fit_ratios(rows: Sequence[Row], observed: Mapping[Row, Observation], resampling: Resampling) -> list[RatioCurve]:
    """One curve for each (method, steps) in the order of `rows`; students of sizes without a teacher are left out.

    A student is divided by the teacher of its size and seed; where there is none, by the geometric mean of the teachers
    of its size, and the curve's notes say so.
    """
    teachers = {(row.size, row.seed): observed[row] for row in rows if row.method == TEACHER}
    notes: dict[tuple[str, int], list[str]] = {}
    groups: dict[tuple[str, int], dict[str, list[Observation]]] = {}
    macs: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        found = {seed: one for (size, seed), one in teachers.items() if size == row.size}
        if row.method == TEACHER or not found:
            continue
        key = (row.method, row.steps)
        if row.seed not in found:
            seeds = ", ".join(map(str, found))
            notes.setdefault(key, []).append(
                f"{curve_label(*key)}, size {row.size}, seed {row.seed}: there is no teacher of that seed; it is "
                f"divided by the mean of what there is (seed {seeds}), whose own scatter is not in the interval"
            )
        teacher = found.get(row.seed) or average([*found.values()])
        groups.setdefault(key, {}).setdefault(row.size, []).append(divide(observed[row], teacher))
        macs.setdefault(key, {})[row.size] = row.macs
    return [
        fit_curve(
            *key,
            combine(group, macs[key], resampling.stream("ratio", *key), resampling.resamples),
            notes.get(key, ()),
        )
        for key, group in groups.items()
    ]


def fit_curve(method: str, steps: int, estimates: Estimates, notes: Sequence[str] = ()) -> RatioCurve:
    """Points, mean, constancy and trend of the log ratios of one (method, steps)."""
    ratios, draws = np.exp(estimates.value), estimates.exp_draws()
    points = tuple(
        RatioPoint(
            size, float(estimates.macs[i]), estimates.seeds[i], interval(ratios[i], draws[:, i]), estimates.sources[i]
        )
        for i, size in enumerate(estimates.sizes)
    )
    return RatioCurve(
        method=method,
        steps=steps,
        points=points,
        mean=interval(ratios.mean(), draws.mean(axis=1)),
        constancy=constancy(estimates) if len(points) > 1 else None,
        trend=trend(estimates) if len(set(estimates.macs)) > 1 else None,
        notes=(*_notes(estimates), *notes),
        judges=set(estimates.sources) == {SEEDS} and not notes,
    )


def constancy(estimates: Estimates) -> Constancy:
    """Test whether one log ratio serves for all sizes (at least two)."""
    test = misfit(estimates, np.ones((len(estimates.sizes), 1)))
    if test.p is None:
        raise ValueError("constancy needs at least two sizes")
    return Constancy(test.chi2, test.dof, test.p, "constant rejected" if test.p < LEVEL else "constant not rejected")


def trend(estimates: Estimates) -> Interval:
    """Slope of the log ratio against the log of the multiply-adds: 0 is constant, below 0 the ratio falls with size."""
    slopes = log_slope(estimates.macs, np.vstack([estimates.value, estimates.draws]))
    return interval(slopes[0], slopes[1:])


def _notes(estimates: Estimates) -> tuple[str, ...]:
    notes = []
    if SEEDS in estimates.sources and min(estimates.seeds) <= FEW_SEEDS:
        counts = " to ".join(str(count) for count in sorted({min(estimates.seeds), max(estimates.seeds)}))
        notes.append(
            f"few seeds ({counts} a size): the intervals are Student's t with the scatter pooled over sizes "
            f"({estimates.dof:.0f} degrees of freedom)"
        )
    if SAMPLES in estimates.sources:
        notes.append("one seed: the intervals hold the noise of the samples and not the scatter between trainings")
    if not {SEEDS, SAMPLES} & set(estimates.sources):
        notes.append("intervals from the stated relative noise alone")
    return tuple(notes)
