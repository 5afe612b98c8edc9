"""Straight lines through log estimates, and how badly a model misses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, fdtrc  # of scipy.stats too, which takes a second to import

from scaling.analysis.uncertainty import Estimates, FloatArray


@dataclass(frozen=True)
class Misfit:
    """Chi-square of a model over the standard errors of the points; `p` is None without degrees of freedom."""

    chi2: float
    dof: int
    p: float | None


def log_slope(macs: FloatArray, values: FloatArray) -> FloatArray:
    """Least-squares slopes [R] of values [R, S] against the log of multiply-adds [S], centred."""
    x = np.log(macs)
    x = x - x.mean()
    return values @ x / (x @ x)


def misfit(estimates: Estimates, design: FloatArray) -> Misfit:
    """How far the log estimates [S] lie from the nearest linear combination of the columns of design [S, P].

    The points are independent. Where their standard errors were estimated from seeds with a common variance, chi2 / dof
    follows the F distribution (the analysis of variance), else chi2 follows the chi-square distribution.
    """
    whitened, target = design / estimates.error[:, None], estimates.value / estimates.error
    best, *_ = np.linalg.lstsq(whitened, target)
    chi2 = float(np.sum((target - whitened @ best) ** 2))
    dof = len(target) - design.shape[1]
    if dof < 1:
        return Misfit(chi2, dof, None)
    known = np.isinf(estimates.dof)
    return Misfit(chi2, dof, float(chdtrc(dof, chi2) if known else fdtrc(dof, estimates.dof, chi2 / dof)))
