"""Power laws of a score against cost: y = A C^-alpha, one for each (method, steps), and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.analysis.floor import FloorLaw, fit_floor
from scaling.analysis.line import LineFit, fit_line, powers
from scaling.analysis.uncertainty import JUDGING, RESIDUALS, UNKNOWN, Estimates, FloatArray, Interval

FEW_SIZES = 4
OUTLIER = 6.0  # residuals this many times the median one are named
LARGE_HOLD_OUT = 0.1


@dataclass(frozen=True)
class HeldOut:
    """The largest sizes, one at a time, predicted from those below the first of them.

    `error` is predicted / measured - 1, `inside` whether the measured score lies in the 95 % interval of a new run.
    """

    size: str
    measured: float
    predicted: Interval
    error: float
    inside: bool


@dataclass(frozen=True)
class Prediction:
    """The score of one new run at a cost: by the power law, and by the law with a floor. `beyond`: times the
    largest.
    """

    target: str
    macs: float
    beyond: float
    power: Interval
    floor: Interval | None


@dataclass(frozen=True)
class PowerLaw:
    """y = A C^-alpha by least squares on logs, for one (method, steps).

    The fit is centred: `level` is the score at `center_macs`, the geometric mean of the sizes, where level and exponent
    are uncorrelated under equal noise; `A` is the level carried to one unit of cost, far outside the data. `covariance`
    [2, 2] is that of log level and -alpha. `scatter` is the relative standard deviation of one run about the law, from
    `source` with `dof` degrees of freedom. `floor` is the same law with a floor, where there are sizes enough to ask.
    """

    method: str
    steps: int
    sizes: tuple[str, ...]
    center_macs: float
    level: Interval
    alpha: Interval
    A: Interval
    scatter: float
    dof: float
    source: str
    covariance: tuple[tuple[float, ...], ...]
    floor: FloorLaw | None
    held_out: tuple[HeldOut, ...]
    warnings: tuple[str, ...]
    fit: LineFit = field(repr=False, compare=False)

    @property
    def judges(self) -> bool:
        """Whether its intervals hold the scatter between trainings."""
        return self.source in JUDGING

    def row(self, macs: float) -> FloatArray:
        """The row of the design at a cost."""
        return np.array([1.0, math.log(macs / self.center_macs)])

    def band(self, macs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The fitted score and its pointwise 95 % band at costs [K]: three arrays [K]."""
        ends = np.array([self.fit.at(self.row(each)).exp().ends for each in macs])
        return ends[:, 0], ends[:, 1], ends[:, 2]

    def predict(self, target: str, macs: float, largest: float) -> Prediction:
        """The score of a new run."""
        floor = self.floor.new_run(macs) if self.floor else None
        return Prediction(target, macs, macs / largest, self.fit.new_run(self.row(macs)).exp(), floor)


def fit_power_law(method: str, steps: int, estimates: Estimates, hold_out: int = 1) -> PowerLaw:
    """The power law through the log scores of at least two sizes of different cost."""
    fit = fit_line(estimates, powers(estimates))
    alpha = _negative(fit.coefficient(1))
    at_one = np.array([1.0, -math.log(estimates.center)])
    floor = fit_floor(estimates) if fit.dof > 0 and len(estimates.sizes) > 3 else None
    held = held_out(estimates, hold_out)
    return PowerLaw(
        method=method,
        steps=steps,
        sizes=estimates.sizes,
        center_macs=estimates.center,
        level=fit.coefficient(0).exp(),
        alpha=alpha,
        A=fit.at(at_one).exp(),
        scatter=fit.scatter,
        dof=fit.dof,
        source=fit.source,
        covariance=tuple(tuple(float(each) for each in row) for row in fit.covariance),
        floor=floor,
        held_out=held,
        warnings=_warnings(estimates, fit, floor, held),
        fit=fit,
    )


def _negative(one: Interval) -> Interval:
    return Interval(-one.value, -one.high, -one.low)


def held_out(estimates: Estimates, count: int) -> tuple[HeldOut, ...]:
    """The `count` largest sizes predicted from the others; empty where fewer than two different ones are left."""
    if count < 1 or len(set(estimates.macs[: len(estimates.sizes) - count])) < 2:
        return ()
    kept = estimates.without(count)
    fit = fit_line(kept, powers(kept))
    found = []
    for i in range(len(estimates.sizes) - count, len(estimates.sizes)):
        row = np.array([1.0, math.log(estimates.macs[i] / kept.center)])
        log = fit.mean_of(row, int(estimates.seeds[i]))
        value = float(estimates.value[i])
        inside = log.low <= value <= log.high
        error = math.exp(log.value - value) - 1
        found.append(HeldOut(estimates.sizes[i], math.exp(value), log.exp(), error, inside))
    return tuple(found)


def _warnings(estimates: Estimates, fit: LineFit, floor: FloorLaw | None, held: Sequence[HeldOut]) -> tuple[str, ...]:
    warnings = []
    sizes = len(estimates.sizes)
    if fit.source == UNKNOWN:
        warnings.append(f"{sizes} sizes of one number each: the scatter is not known, so there is no interval")
    elif sizes < FEW_SIZES:
        warnings.append(f"{sizes} sizes: too few to tell a power law from another curve")
    if floor is not None and floor.needed:
        warnings.append(
            f"a power law alone does not fit, a floor of {floor.E.value:.3g} [{floor.E.low:.3g}, {floor.E.high:.3g}] "
            "fits better: do not extrapolate without it"
        )
    if held and not held[-1].inside and abs(held[-1].error) > LARGE_HOLD_OUT:
        one = held[-1]
        warnings.append(f"size {one.size} is missed by {one.error:+.1%} when it is predicted from the smaller ones")
    if fit.source == RESIDUALS and sizes > FEW_SIZES:
        middle = float(np.median(np.abs(fit.residuals)))
        far = [
            f"{estimates.sizes[i]} ({math.exp(fit.residuals[i]) - 1:+.0%})"
            for i in np.flatnonzero(np.abs(fit.residuals) > max(OUTLIER * middle, 1e-6))
        ]
        if far and len(far) <= sizes // 4:
            warnings.append(f"far from the law, and pulling it: {', '.join(far[:5])}")
    return tuple(warnings)
