"""The Frechet distance between Gaussians fitted to two sets of features, in float64.

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)      (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

With a root A of the reference, S2 = A A^T, found once, the last trace is the sum of the roots of the eigenvalues of
A^T S1 A: one symmetric eigenproblem, no complex roots, no iteration that may fail. A is Cholesky's triangle where the
reference has full rank, half of which need not be multiplied. Where so many of the eigenvalues are lost in rounding
that it could show (features of low rank: sqrt turns 1e-16 into 1e-8), the trace is the sum of the singular values of
A1^T A instead, whose error is some 1e-15 of it.

The distance is biased upward: two sets of N samples of one distribution have a positive distance, about
proportional to 1/N, which is the floor of a measurement. Compare values of one N only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from scaling.evaluation.moments import feature_statistics

# Relative to the largest entry or eigenvalue: what statistics that were kept in float32 may deviate by.
TOLERANCE = 1e-6
# Relative to the distance: what rounding may change before the slower form is taken.
ROUNDING = 1e-7
BLOCKS = 16


def check_statistics(mean: np.ndarray, covariance: np.ndarray) -> None:
    """ValueError unless mean is [D], covariance [D, D] and symmetric, and both hold finite numbers."""
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or mean.size == 0:
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise ValueError(f"mean and covariance have shapes {shapes}, expected [D] and [D, D]")
    for name, values in (("mean", mean), ("covariance", covariance)):
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise ValueError(f"the {name} holds NaN, infinity or no numbers")
    if np.abs(covariance - covariance.T).max() > TOLERANCE * np.abs(covariance).max():
        raise ValueError("the covariance is not symmetric")


def root_of(covariance: np.ndarray) -> np.ndarray:
    """A matrix A [D, D] with A A^T = covariance. ValueError where an eigenvalue is below zero by more than rounding."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64, copy=False))
    if values[0] < -TOLERANCE * values[-1] or values[-1] < 0:
        raise ValueError(f"the covariance is indefinite: its eigenvalues are {values[0]:.3g} to {values[-1]:.3g}")
    return vectors * np.sqrt(values.clip(0))


def frechet_distance(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """The Frechet distance of two Gaussians given by means [D] and covariances [D, D]. ValueError as in `Reference`."""
    return Reference(mean2, covariance2).distance_to(mean1, covariance1)


@dataclass(frozen=True)
class Reference:
    """One side of many distances: its mean [D], covariance [D, D], and the covariance's root, computed once.

    Raises:
        ValueError: other shapes, a non-finite value, a covariance that is not symmetric; from `root` on, an indefinite.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        check_statistics(self.mean, self.covariance)

    @classmethod
    def from_features(cls, features: np.ndarray) -> Reference:
        """The reference fitted to features [N, D]. ValueError as in `feature_statistics`."""
        return cls(*feature_statistics(features))

    @cached_property
    def root(self) -> np.ndarray:
        """A matrix A [D, D] with A A^T = covariance. ValueError where the covariance is indefinite."""
        return root_of(self.covariance)

    @cached_property
    def factor(self) -> np.ndarray:
        """Some A [D, D] with A A^T = covariance: lower triangular where that has full rank, else the root."""
        try:
            lower = np.linalg.cholesky(self.covariance.astype(np.float64, copy=False))
        except np.linalg.LinAlgError:
            return self.root
        diagonal = np.diag(lower)
        return lower if diagonal.min() > TOLERANCE * diagonal.max() else self.root

    def product(self, covariance: np.ndarray) -> np.ndarray:
        """A^T S1 A [D, D] of the factor A and a covariance S1 [D, D]; the lower triangle alone holds it.

        By blocks, of a triangle those alone that are not 0: a third of the operations of two products.
        """
        factor, symmetric = self.factor, (covariance + covariance.T) / 2
        if factor is self.root:
            return factor.T @ symmetric @ factor
        ends = np.linspace(0, len(factor), min(BLOCKS, len(factor)) + 1).astype(int)
        half, made = np.empty_like(factor), np.zeros_like(factor)
        for first, last in pairwise(ends):
            half[:, first:last] = symmetric[:, first:] @ factor[first:, first:last]
        for first, last in pairwise(ends):
            made[first:last, :last] = factor[first:, first:last].T @ half[first:, :last]
        return made

    def distance_to(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """The Frechet distance to the Gaussian with this mean [D] and covariance [D, D].

        Where the two coincide, rounding can leave some 1e-15 of the trace below zero; that is returned as 0.

        Raises:
            ValueError: it is no Gaussian of D dimensions.
        """
        self._check(mean, covariance)
        return self.distance_by(mean, covariance, _eigenvalues(self.product(covariance)))

    def distance_by(self, mean: np.ndarray, covariance: np.ndarray, values: np.ndarray) -> float:
        """The same where the eigenvalues [D] of the product are known. ValueError as in `distance_to`."""
        offset = mean - self.mean
        apart = float(offset @ offset + np.trace(covariance) + np.trace(self.covariance))
        overlap, doubt = _overlap(values, covariance)
        if doubt > ROUNDING * abs(apart - 2 * overlap):
            overlap = np.linalg.svd(root_of(covariance).T @ self.root, compute_uv=False).sum()
        distance = apart - 2 * float(overlap)
        assert np.isfinite(distance), "of finite statistics"
        return max(0.0, distance)

    def distance(self, features: np.ndarray) -> float:
        """The Frechet distance to the Gaussian fitted to features [N, D]. ValueError as in `feature_statistics`."""
        return self.distance_to(*feature_statistics(features))

    def _check(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        check_statistics(mean, covariance)
        if mean.shape != self.mean.shape:
            raise ValueError(f"statistics of {mean.size} features against those of {self.mean.size}")


def _eigenvalues(lower: np.ndarray) -> np.ndarray:
    """Those of a symmetric matrix [D, D] whose lower triangle is given, rising; torch has the faster LAPACK."""
    return torch.linalg.eigvalsh(torch.from_numpy(lower)).numpy()


def _overlap(values: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """tr (S1 S2)^(1/2) from the eigenvalues [D] of A^T S1 A, and by how much rounding may have moved it.

    A covariance with an eigenvalue below zero shows there too, unless the reference is blind to it: then its own
    eigenvalues are looked at. ValueError where one is below zero by more than rounding.
    """
    if values[0] < -TOLERANCE * max(values[-1], 0.0) or not values[-1] > 0:
        root_of(covariance)
        return 0.0, 0.0 if values[-1] == 0 == values[0] else np.inf
    rounding = 4 * np.finfo(np.float64).eps * values[-1]
    roots = np.sqrt(values.clip(0))
    lost = values < 100 * rounding  # each may be off to one side by sqrt(rounding), the others to either side
    doubt = lost.sum() * rounding**0.5 + np.linalg.norm(rounding / roots[~lost]) / 2
    return float(roots.sum()), float(doubt)
