"""Laws that are linear in their parameters on the log scale, with intervals that hold what the law misses.

The rule, from simulations (benchmarks/coverage.py): least squares over the means of the sizes; its variance is the
larger of the usual one and HC2's (each residual at its own place), with Student's t of the sizes less the parameters.
It covers 93 to 97 % with equal scatter, with scatter that falls fourfold over the sizes, and where the law is off by 3
%. With fewer than three degrees of freedom the seeds are pooled with the residuals, unless these are the larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scaling.analysis.uncertainty import (
    RESIDUALS,
    SAMPLES,
    SEEDS,
    STATED,
    UNKNOWN,
    Estimates,
    FloatArray,
    Interval,
    around,
)

ENOUGH = 3  # degrees of freedom of the residuals, which then stand alone


@dataclass(frozen=True)
class LineFit:
    """Coefficients [P] by least squares with their covariance [P, P], `dof` behind it, and where it comes from.

    `scatter` is the standard deviation of the log score of one run about the law, `residuals` [S] are logs, `weights`
    [S] those of the sizes.
    """

    coefficients: FloatArray
    covariance: FloatArray
    scatter: float
    dof: float
    source: str
    residuals: FloatArray
    weights: FloatArray

    def at(self, row: FloatArray) -> Interval:
        """The law at a row [P] of a design."""
        return around(float(row @ self.coefficients), self._error(row, 0.0), self.dof)

    def new_run(self, row: FloatArray) -> Interval:
        """The log score of one new run there: the law's own uncertainty and the scatter of a run."""
        return self.mean_of(row, 1)

    def mean_of(self, row: FloatArray, runs: int) -> Interval:
        """The mean log score of so many new runs there."""
        return around(float(row @ self.coefficients), self._error(row, self.scatter**2 / runs), self.dof)

    def _error(self, row: FloatArray, besides: float) -> float:
        if not self.dof:
            return math.inf
        return math.sqrt(max(float(row @ self.covariance @ row) + besides, 0.0))

    def coefficient(self, index: int) -> Interval:
        """One coefficient."""
        return self.at(np.eye(len(self.coefficients))[index])


def fit_line(estimates: Estimates, design: FloatArray, *, robust: bool = True) -> LineFit:
    """Fit the columns of design [S, P] to the log scores [S] of a curve.

    `robust`: HC2's variance where it is the larger. Without it intervals are F profiles, by which nested forms compare.
    """
    own, common = variances(estimates, design)
    spread = own + common
    root = 1 / np.sqrt(spread)
    whitened = design * root[:, None]
    inverse = np.asarray(np.linalg.pinv(whitened.T @ whitened), np.float64)
    coefficients = inverse @ (whitened.T @ (estimates.value * root))
    residuals = estimates.value - design @ coefficients
    one_run = float(np.mean(own * estimates.seeds)) + common
    covariance, scale, dof, source = _uncertainty(estimates, whitened, inverse, residuals * root, common, robust)
    scatter = math.sqrt(scale * one_run)
    return LineFit(coefficients, covariance, scatter, dof, source, residuals, 1 / spread)


def _uncertainty(
    estimates: Estimates, whitened: FloatArray, inverse: FloatArray, misses: FloatArray, common: float, robust: bool
) -> tuple[FloatArray, float, float, str]:
    """Covariance [P, P], factor on the variances, degrees of freedom, source."""
    if estimates.stated is not None:
        return inverse, 1.0, math.inf, STATED
    dof, seeds, total = len(misses) - whitened.shape[1], estimates.dof, float(misses @ misses)
    if 0 < dof < ENOUGH and seeds and common == 0:
        pooled = (total + seeds) / (dof + seeds)  # the seeds' own sum of squares is `seeds` in units of their variance
        return inverse * pooled, pooled, dof + seeds, RESIDUALS
    if dof > 0:
        scale = total / dof
        if not robust:
            return inverse * scale, scale, dof, RESIDUALS
        lever = np.einsum("ij,jk,ik->i", whitened, inverse, whitened)
        pulled = inverse @ whitened.T * (misses / np.sqrt(np.maximum(1 - lever, 1e-9)))
        return _larger(inverse * scale, pulled @ pulled.T), scale, dof, RESIDUALS
    if seeds:
        return inverse, 1.0, seeds, SEEDS
    if np.isfinite(estimates.sampling).all():
        return inverse, 1.0, math.inf, SAMPLES
    return np.full_like(inverse, math.nan), math.inf, 0, UNKNOWN


def _larger(one: FloatArray, other: FloatArray) -> FloatArray:
    """The correlations of the first, with the larger of both variances of each coefficient."""
    before = np.sqrt(np.maximum(np.diag(one), 1e-300))
    factor = np.maximum(1, np.sqrt(np.maximum(np.diag(other), 0)) / before)
    return one * np.outer(factor, factor)


def variances(estimates: Estimates, design: FloatArray) -> tuple[FloatArray, float]:
    """Variances [S] of the means as seeds or samples give them, and a common one by which the law misses besides.

    The common part is the moment estimate of DerSimonian and Laird. Where neither seeds nor samples tell, all are 1:
    then the residuals say what the unit is.
    """
    seeds = estimates.dof
    if estimates.stated is not None:
        return estimates.stated**2 / estimates.seeds, 0.0
    if seeds:
        own = estimates.squares.sum() / seeds / estimates.seeds
    elif np.isfinite(estimates.sampling).all():
        own = estimates.sampling
    else:
        return 1 / estimates.seeds, 0.0
    dof = len(own) - design.shape[1]
    if dof < 1:
        return own, 0.0
    weights = 1 / own
    inverse = np.linalg.pinv(design.T @ (design * weights[:, None]))
    best = inverse @ (design.T @ (weights * estimates.value))
    surplus = float(weights @ (estimates.value - design @ best) ** 2) - dof
    trace = float(weights.sum() - np.trace(inverse @ (design.T @ (design * weights[:, None] ** 2))))
    return own, max(surplus / trace, 0.0) if trace > 0 else 0.0


def powers(estimates: Estimates) -> FloatArray:
    """The design [S, 2] of a power law: one, and the centred log cost."""
    return np.column_stack([np.ones(len(estimates.sizes)), estimates.logs])


def points(estimates: Estimates, fit: LineFit | None) -> tuple[list[Interval], str]:
    """The interval of each size's own log score, and its source: seeds, else the residuals of `fit`, else samples.

    Seeds are pooled over sizes, and with the residuals where some sizes have one seed alone; a size whose own seeds
    scatter more keeps their scatter.
    """
    counts = estimates.seeds
    if estimates.stated is not None:
        return _each(estimates, estimates.stated**2 / counts, math.inf), STATED
    squares, dof, source = float(estimates.squares.sum()), estimates.dof, SEEDS
    if fit is not None and fit.source == RESIDUALS and counts.min() == 1:
        free = len(counts) - len(fit.coefficients)
        squares, dof = squares + free * fit.scatter**2, dof + free
        source = RESIDUALS
    if dof:
        own = np.where(counts > 1, estimates.squares / np.maximum(counts - 1, 1), 0.0)
        return _each(estimates, np.maximum(squares / dof, own) / counts, dof), source
    if np.isfinite(estimates.sampling).all():
        return _each(estimates, estimates.sampling, math.inf), SAMPLES
    return _each(estimates, np.full(len(counts), math.inf), 0), UNKNOWN


def _each(estimates: Estimates, variances: FloatArray, dof: float) -> list[Interval]:
    errors = np.sqrt(variances).tolist()
    return [around(value, error, dof) for value, error in zip(estimates.value.tolist(), errors, strict=True)]
