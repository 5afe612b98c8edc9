"""Power laws of the distance against multiply-adds: FD = A MACs^-alpha, one for each (method, steps)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scaling.analysis.least_squares import Misfit, log_slope, misfit
from scaling.analysis.uncertainty import SAMPLES, Estimates, FloatArray, Interval, interval

FEW_SIZES = 4
LEVEL = 0.05


@dataclass(frozen=True)
class HeldOut:
    """The largest size predicted from the smaller ones; `error` is predicted / measured - 1."""

    size: str
    measured: float
    predicted: float
    error: float


@dataclass(frozen=True)
class PowerLaw:
    """FD = A MACs^-alpha by least squares on logs, for one (method, steps).

    There is no floor parameter: a handful of sizes with 2 % noise does not identify it. On the published ImageNet-512
    teachers a floor moves the exponent from 0.16 to 0.87, while the law without one already fits within the noise;
    a fitted floor, and the exponent beside it, would be an assumption printed as a result. What leaving it out may cost
    is measured instead: `held_out` is the error of predicting the largest size from the others, and `warnings` say when
    the law does not fit.

    The fit is centred: `level` is the distance at `center_macs`, the geometric mean of the sizes, where level and
    exponent are uncorrelated under equal noise; `A` is the level carried to one multiply-add, far outside the data.
    The intervals hold what the draws hold (see `uncertainty`), and are too narrow where the law does not fit.
    """

    method: str
    steps: int
    sizes: tuple[str, ...]
    center_macs: float
    level: Interval
    alpha: Interval
    A: Interval
    misfit: Misfit
    held_out: HeldOut | None
    warnings: tuple[str, ...]
    draws: FloatArray = field(repr=False, compare=False)

    def band(self, macs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The fitted distance and its pointwise 95 % band at multiply-adds [K]: three arrays [K]."""
        x = np.log(macs / self.center_macs)
        logs = self.draws[:, :1] - self.draws[:, 1:] * x
        low, high = np.exp(np.quantile(logs, (0.025, 0.975), axis=0))
        return self.level.value * np.exp(-self.alpha.value * x), low, high


def fit_power_law(method: str, steps: int, estimates: Estimates) -> PowerLaw:
    """The power law through the log distances of at least two sizes with different multiply-adds."""
    rows = np.vstack([estimates.value, estimates.draws])
    alphas, levels = -log_slope(estimates.macs, rows), rows.mean(axis=1)
    center = float(np.exp(np.log(estimates.macs).mean()))
    at_one = np.exp(np.clip(levels + alphas * np.log(center), -700, 700))
    design = np.column_stack([np.ones(len(estimates.sizes)), np.log(estimates.macs / center)])
    test = misfit(estimates, design)
    return PowerLaw(
        method=method,
        steps=steps,
        sizes=estimates.sizes,
        center_macs=center,
        level=interval(np.exp(levels[0]), np.exp(levels[1:])),
        alpha=interval(alphas[0], alphas[1:]),
        A=interval(at_one[0], at_one[1:]),
        misfit=test,
        held_out=_hold_out(estimates),
        warnings=_warnings(estimates, test.p),
        draws=np.column_stack([levels[1:], alphas[1:]]),
    )


def _hold_out(estimates: Estimates) -> HeldOut | None:
    if len(set(estimates.macs[:-1])) < 2:
        return None
    x, y = np.log(estimates.macs), estimates.value
    slope = log_slope(estimates.macs[:-1], y[None, :-1])[0]
    predicted = float(np.exp(y[:-1].mean() + slope * (x[-1] - x[:-1].mean())))
    measured = float(np.exp(y[-1]))
    return HeldOut(estimates.sizes[-1], measured, predicted, predicted / measured - 1)


def _warnings(estimates: Estimates, p: float | None) -> tuple[str, ...]:
    warnings = []
    if len(estimates.sizes) < FEW_SIZES:
        warnings.append(f"{len(estimates.sizes)} sizes: too few to tell a power law from another curve")
    if p is not None and p < LEVEL:
        noise = "the noise of the samples" if SAMPLES in estimates.sources else f"the noise (p = {p:.2g})"
        warnings.append(f"a power law does not fit within {noise}: do not extrapolate")
    return tuple(warnings)
