"""How sure a Frechet distance is: its bias and its standard error at N samples, to second order in 1 / sqrt(N).

The distance is a smooth function of the mean m1 and the covariance S1 of the N samples. With the reference's root A
(S2 = A A^T), A^T S1 A = U diag(l) U^T, s = sqrt(l), y = (A U)^T (x - m1) and d = m1 - m2, one sample x moves it by

    IF(x) = 2 d.(x - m1) + |x - m1|^2 - sum_i y_i^2 / s_i, less its mean          (the first derivative)

and a change H of the covariance, in the basis of y, by sum_ij W_ij H_ij^2 more, W_ij = 1 / (2 s_i s_j (s_i + s_j)),
from the divided differences of the root. So N samples lie too high by the bias

    b = tr S1 / N + (E[(y^2)^T W y^2] - sum_i W_ii l_i^2) / N

with no assumption on the features. The variance of a distance is v1 + v2, of the linear and of the quadratic part. The
usual plug-in Var(IF) / N has the mean v1 + 2 v2 and the bootstrap v1 + 3 v2 (Efron and Stein 1981), which near the
reference, where v1 is nothing, is up to 1.4 and 1.7 times too wide. What is taken is max(Var(IF) / N - v2, v2) with v2
of Gaussian features. `benchmarks/frechet_coverage.py` simulates how often the intervals hold the truth.

The expansion is one about S1, which must have full rank: it is refused below N = 2 D.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scaling.evaluation.frechet import Reference
from scaling.evaluation.moments import feature_statistics

NORMAL_95 = 1.959963984540054
LEAST_SAMPLES = 2  # a feature, for the expansion to hold
BLANK = 1e-7  # relative to the largest root: directions in which nothing varies
ROWS = 4096  # samples at once


@dataclass(frozen=True)
class Estimate:
    """A distance at N samples, what finite N adds to it (bias), and the standard error of either.

    The intervals are of 95 %: `interval` for the expected distance of N samples of this model to the reference,
    `infinite` for the distance that infinitely many would have, whose estimate is `value - bias`.
    """

    value: float
    bias: float
    error: float
    influence: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def interval(self) -> tuple[float, float]:
        """For the distance at this N."""
        return _about(self.value, self.error)

    @property
    def infinite(self) -> tuple[float, float]:
        """For the distance at infinite N; it may reach below 0."""
        return _about(self.value - self.bias, self.error)


def paired_error(first: np.ndarray, second: np.ndarray) -> float:
    """The standard error of the difference of two distances from their influences [N] on common seeds."""
    return float((first - second).std(ddof=1) / len(first) ** 0.5)


def _about(value: float, error: float) -> tuple[float, float]:
    return value - NORMAL_95 * error, value + NORMAL_95 * error


def expand(features: np.ndarray, reference: Reference) -> Estimate:
    """The distance of features [N, D] to the reference with its bias and standard error.

    The covariance and two products of N x D x D are all it costs: no resampling.

    Raises:
        ValueError: N < 2 D, other dimensions, or as in `feature_statistics`.
    """
    count, size = features.shape
    if count < LEAST_SAMPLES * size:
        raise ValueError(f"{count} samples of {size} features: the expansion needs {LEAST_SAMPLES * size}")
    mean, covariance = feature_statistics(features)
    if mean.shape != reference.mean.shape:
        raise ValueError(f"statistics of {mean.size} features against those of {reference.mean.size}")
    values, vectors = np.linalg.eigh(reference.product(covariance), "L")
    value = reference.distance_by(mean, covariance, values)
    roots = np.sqrt(values.clip(0))
    lives = roots > BLANK * roots[-1]
    roots, towards = roots[lives], reference.factor @ vectors[:, lives]
    second = roots[:, None] * roots / (2 * (roots[:, None] + roots))  # W_ij l_i l_j
    influence, fourth = _passes(features, mean, mean - reference.mean, towards / roots, roots)
    bias = (np.trace(covariance) + (second * fourth).sum() - np.trace(second)) / count
    v2 = (4 * ((second**2).sum() + (np.diag(second) ** 2).sum()) + 2 * (covariance**2).sum()) / count**2
    variance = max(influence.var(ddof=1) / count - v2, v2)
    return Estimate(value, float(bias), float(np.sqrt(variance)), influence)


def _passes(
    features: np.ndarray, mean: np.ndarray, offset: np.ndarray, towards: np.ndarray, roots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """IF [N] of each sample but for a constant, and E[z_i^2 z_j^2] [D, D] of z = y / s, whose variances are 1.

    The products of N x D x D are made in float32, since an error of 1e-6 of a standard error is nothing.
    """
    influence, towards = np.empty(len(features)), towards.astype(np.float32)
    total = np.zeros((len(roots), len(roots)))
    for start in range(0, len(features), ROWS):
        x = features[start : start + ROWS] - mean
        squares = (x.astype(np.float32) @ towards) ** 2
        influence[start : start + ROWS] = x @ (2 * offset) + np.einsum("nd,nd->n", x, x) - squares @ roots
        total += squares.T @ squares
    return influence, total / len(features)


def simulate(features: np.ndarray, reference: Reference, sets: int, seed: int) -> Estimate:
    """The distance of features [N, D] to the reference, bias and error from sets of N Gaussian samples; for N < 2 D.

    The samples are drawn with the covariance of the reference, since N samples do not tell one of D dimensions, about
    the mean of the features, which is moved towards the reference's by what it is off by chance. So what it says holds
    near the reference: a model whose covariance differs much from it has another error. A bootstrap of the samples
    themselves fails here: at D = 512, N = 128 its spread is four times too large and its bias a third of the true one.

    Raises:
        ValueError: other dimensions, or as in `feature_statistics`.
    """
    mean, covariance = feature_statistics(features)
    value = reference.distance_to(mean, covariance)
    count, size = features.shape
    scales = (reference.root**2).sum(0)  # A = V sqrt(lambda): A^T A is diagonal
    offset = mean - reference.mean
    by_chance = np.trace(covariance) / count  # of |offset|^2: what the mean of N samples is off by
    offset *= np.sqrt(max(0.0, 1 - by_chance / max(offset @ offset, by_chance)))
    apart = reference.root.T @ offset
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = np.empty(sets)
    for number in range(sets):
        z = generator.standard_normal((count, size))
        middle = z.mean(0)
        z -= middle
        overlap = np.linalg.svd(z * (scales / np.sqrt(count - 1)), compute_uv=False).sum()
        spread = scales @ np.einsum("nd,nd->d", z, z) / (count - 1)
        drawn[number] = scales @ middle**2 + 2 * apart @ middle + spread + scales.sum() - 2 * overlap
    return Estimate(value, float(drawn.mean()), float(drawn.std(ddof=1)))
