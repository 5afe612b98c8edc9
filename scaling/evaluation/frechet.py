"""The Frechet distance between Gaussians fitted to two sets of features, in float64.

    FD = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)      (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

The last trace is the sum of the roots of the eigenvalues of A^T S1 A with S2 = A A^T: symmetric eigenproblems only, so
there are no complex roots, no iteration that may fail, and A is computed once per reference.

The distance is biased upward: two sets of N samples of one distribution have a positive distance, about
proportional to 1/N, which is the floor of a measurement. Compare values of one N only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


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


def frechet_distance(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """The Frechet distance of two Gaussians given by means [D] and covariances [D, D]."""
    return Reference(mean2, covariance2).distance_to(mean1, covariance1)


@dataclass(frozen=True)
class Reference:
    """One side of many distances: its mean [D], covariance [D, D], and the covariance's root, computed once."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def from_features(cls, features: np.ndarray) -> Reference:
        """The reference fitted to features [N, D]. ValueError as in `feature_statistics`."""
        return cls(*feature_statistics(features))

    @cached_property
    def root(self) -> np.ndarray:
        """A matrix A [D, D] with A A^T = covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(values.clip(0))

    def distance_to(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """The Frechet distance to the Gaussian with this mean [D] and covariance [D, D].

        Where the two coincide, rounding can leave some 1e-8 of the trace below zero; that is returned as 0.
        """
        products = np.linalg.eigvalsh(self.root.T @ covariance @ self.root)
        offset = mean - self.mean
        traces = np.trace(covariance) + np.trace(self.covariance)
        return max(0.0, float(offset @ offset + traces - 2 * np.sqrt(products.clip(0)).sum()))

    def distance(self, features: np.ndarray) -> float:
        """The Frechet distance to the Gaussian fitted to features [N, D]. ValueError as in `feature_statistics`."""
        return self.distance_to(*feature_statistics(features))


def bootstrap_distances(features: np.ndarray, reference: Reference, resamples: int, seed: int) -> np.ndarray:
    """Distances [resamples] of sets of N features drawn with replacement from features [N, D]; same seed, same values.

    Their spread estimates the standard error that the choice of the N samples gives to `reference.distance(features)`;
    the reference is held fixed. Their level is too high: a resample holds about 63 % of the samples, so its bias is
    added to the bias of the original, about one more floor. Centre intervals on the distance of the original, for
    instance as 2 d - quantile (the basic bootstrap), never on the mean of these.

    Raises:
        ValueError: as in `feature_statistics`.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    draws = (generator.integers(len(features), size=len(features)) for _ in range(resamples))
    return np.array([reference.distance(features[draw]) for draw in draws])
