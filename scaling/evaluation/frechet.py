"""The Frechet distance between Gaussians fitted to two sets of features, in float64.

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)      (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

The last trace is the sum of the singular values of A1^T A2, with S1 = A1 A1^T and S2 = A2 A2^T from symmetric
eigenproblems: no complex roots, no iteration that may fail, and an error of some 1e-15 of the trace even where features
have low rank. (Roots of the eigenvalues of A2^T S1 A2 turn a rounding of 1e-16 into one of 1e-8.)

The distance is biased upward: two sets of N samples of one distribution have a positive distance, about
proportional to 1/N, which is the floor of a measurement. Compare values of one N only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Relative to the largest entry or eigenvalue: what statistics that were kept in float32 may deviate by.
TOLERANCE = 1e-6


def feature_statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] (divided by N - 1) of features [N, D], in float64.

    Raises:
        ValueError: not two-dimensional, fewer than two samples, or a non-finite value.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}, expected [N, D] with N >= 2")
    features = features.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(features)} samples have non-finite features, the first is number {bad[0]}: "
            "the images they come from are not finite, or the network that made them diverged"
        )
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


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
    values, vectors = np.linalg.eigh(covariance)
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

    def distance_to(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """The Frechet distance to the Gaussian with this mean [D] and covariance [D, D].

        Where the two coincide, rounding can leave some 1e-15 of the trace below zero; that is returned as 0.

        Raises:
            ValueError: it is no Gaussian of D dimensions.
        """
        check_statistics(mean, covariance)
        if mean.shape != self.mean.shape:
            raise ValueError(f"statistics of {mean.size} features against those of {self.mean.size}")
        overlap = np.linalg.svd(root_of(covariance).T @ self.root, compute_uv=False).sum()
        offset = mean - self.mean
        return max(0.0, float(offset @ offset + np.trace(covariance) + np.trace(self.covariance) - 2 * overlap))

    def distance(self, features: np.ndarray) -> float:
        """The Frechet distance to the Gaussian fitted to features [N, D]. ValueError as in `feature_statistics`."""
        return self.distance_to(*feature_statistics(features))


def bootstrap_distances(features: np.ndarray, reference: Reference, resamples: int, seed: int) -> np.ndarray:
    """Distances [resamples] of sets of N features drawn with replacement from features [N, D]; same seed, same values.

    Their spread about their own mean estimates the standard error that the choice of the N samples gives to
    d = `reference.distance(features)`; the reference is held fixed. Near the floor it is too wide (1.7 times for 64
    Gaussian features at N = 5000). Their level is one bias of N samples too high: the resamples' own is added to that
    of d. So an interval for the expected distance at this N is d - (quantile - mean of these), as `scaling.analysis`
    takes it. The basic bootstrap, 2 d - quantile, takes the bias off d: it is one for the distance at infinite N, and
    near the floor it misses the expected distance at this N.

    Raises:
        ValueError: as in `feature_statistics`.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    draws = (generator.integers(len(features), size=len(features)) for _ in range(resamples))
    return np.array([reference.distance(features[draw]) for draw in draws])
