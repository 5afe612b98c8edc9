"""Mean and covariance of features that stream past, in float64, whatever their number and however they are parted.

Each part is reduced to its number, mean and sum of squares about its own mean, and parts are joined by the formula of
Chan, Golub and LeVeque (1983): no large sums cancel, and the parts of several processes join to what one would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """The number of samples, their mean [D] and the sum [D, D] of (x - mean) (x - mean)^T."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, first: int = 0) -> Moments:
        """Those of features [N, D], of which the first has the number `first`.

        Raises:
            ValueError: not two-dimensional, no sample, or a non-finite value.
        """
        if features.ndim != 2 or not features.size:
            raise ValueError(f"features have shape {features.shape}, expected [N, D] with N >= 1")
        require_finite(features, first)
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def joined(self, other: Moments) -> Moments:
        """Those of both sets of samples. ValueError where they have other dimensions."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"{other.mean.size} features beside {self.mean.size}")
        count = self.count + other.count
        step = other.mean - self.mean
        squares = self.squares + other.squares + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), squares)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D], divided by N - 1. ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"{self.count} sample has no covariance: give two at least")
        return self.mean, self.squares / (self.count - 1)


def require_finite(features: np.ndarray, first: int = 0) -> None:
    """ValueError that counts the samples whose features [N, D] are not finite, and names the first."""
    if np.isfinite(features.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(features)} samples have non-finite features, the first is number {first + bad[0]}: "
            "the images they come from are not finite, or the network that made them diverged"
        )


def feature_statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] (divided by N - 1) of features [N, D], in float64. ValueError as in `Moments`."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}, expected [N, D] with N >= 2")
    return Moments.of(features).statistics()
