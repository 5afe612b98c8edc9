"""Where the intervals of an analysis come from: the scatter of the runs themselves, of their samples, or a stated
noise.

Nothing is assumed to be known. A curve is the mean log score of each size, and its scatter is read off the table:

seeds
    Runs of one size that differ in the seed alone. One variance, pooled over sizes; a size whose own scatter is larger
    keeps that.
residuals
    The distances of the sizes from the law that is fitted through them (`line`), pooled with the seeds where there are
    some. Each size is another training, so this holds the scatter between trainings, and what the law misses too.
samples
    Bootstrap replicates of a score, where there is neither: how finite N moves it, and nothing about how another seed
    would have trained. Such intervals decide nothing.
stated
    A relative standard deviation that the user chose to assume.
unknown
    A single number each and no more sizes than the law has parameters: there is no interval, from minus to plus
    infinity.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # of scipy.stats too, which takes a second to import

from scaling.analysis.table import Row, TableError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SEEDS, RESIDUALS, SAMPLES, STATED, UNKNOWN = "seeds", "residuals", "samples", "stated", "unknown"
JUDGING = (SEEDS, RESIDUALS)  # these hold the scatter between trainings
LARGEST_LOG = 700.0


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, infinite where nothing is known of its scatter."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.high) and math.isfinite(self.low)

    def exp(self) -> Interval:
        """The interval of the exponential."""
        return Interval(_exp(self.value), _exp(self.low), _exp(self.high))

    @property
    def ends(self) -> tuple[float, float, float]:
        """Value, low, high."""
        return self.value, self.low, self.high


def _exp(end: float) -> float:
    return math.exp(min(end, LARGEST_LOG)) if end < math.inf else end


@dataclass(frozen=True)
class Observation:
    """One measured log score of a run, and the variance that finite samples give it, None where it is not known."""

    value: float
    sampling: float | None = None


@dataclass(frozen=True)
class Estimates:
    """Log scores of one curve over S sizes in order of cost.

    `value` [S] are means over seeds, `seeds` [S] their number, `squares` [S] the sums of squares of the seeds about
    them, `sampling` [S] the variances of the means by finite samples (nan: unknown), `stated` the relative standard
    deviation of one run that the user assumes.
    """

    sizes: tuple[str, ...]
    macs: FloatArray
    value: FloatArray
    seeds: npt.NDArray[np.int64]
    squares: FloatArray
    sampling: FloatArray
    stated: float | None = None

    @property
    def dof(self) -> int:
        """Degrees of freedom of the scatter between seeds."""
        return int((self.seeds - 1).sum())

    @property
    def logs(self) -> FloatArray:
        """Log cost [S], centred on the mean over sizes."""
        x = np.log(self.macs)
        return x - x.mean()

    @property
    def center(self) -> float:
        """The geometric mean of the costs."""
        return float(np.exp(np.log(self.macs).mean()))

    def without(self, count: int) -> Estimates:
        """The same without the `count` largest sizes."""
        kept = slice(0, len(self.sizes) - count)
        arrays = (self.macs[kept], self.value[kept], self.seeds[kept], self.squares[kept], self.sampling[kept])
        return Estimates(self.sizes[kept], *arrays, self.stated)


def observe(row: Row) -> Observation:
    """The log score of a row; replicates tell what finite samples do to it."""
    if row.replicates is None:
        return Observation(math.log(row.fd))
    variance = float(np.var(row.replicates, ddof=1)) / row.fd**2
    if variance == 0:
        raise TableError(
            f"{row.method}, {row.steps} steps, size {row.size!r}: all samples gave one value; were results copied?"
        )
    return Observation(math.log(row.fd), variance)


def divide(numerator: Observation, denominator: Observation) -> Observation:
    """The log ratio of two independently measured scores."""
    known = numerator.sampling is not None and denominator.sampling is not None
    total = (numerator.sampling or 0) + (denominator.sampling or 0)
    return Observation(numerator.value - denominator.value, total if known else None)


def average(observations: Sequence[Observation]) -> Observation:
    """The mean log of several observations of one quantity."""
    if len(observations) == 1:
        return observations[0]
    value = float(np.mean([one.value for one in observations]))
    variances = [one.sampling for one in observations if one.sampling is not None]
    known = len(variances) == len(observations)
    return Observation(value, sum(variances) / len(variances) ** 2 if known else None)


def combine(
    observed: Mapping[str, Sequence[Observation]], macs: Mapping[str, float], stated: float | None = None
) -> Estimates:
    """Estimates of a curve from the observations of each size, one for each seed.

    Raises TableError when all seeds of every size agree to the last digit, which means that one result was copied.
    """
    sizes = tuple(sorted(observed, key=lambda size: (macs[size], size)))
    groups = [[one.value for one in observed[size]] for size in sizes]  # lists: of many sizes most have one value
    counts = np.array([len(group) for group in groups])
    means = [group[0] if len(group) == 1 else math.fsum(group) / len(group) for group in groups]
    value = np.array(means)
    squares = np.array(
        [0.0 if len(g) == 1 else sum((x - mean) ** 2 for x in g) for g, mean in zip(groups, means, strict=True)]
    )
    sampling = [average(observed[size]).sampling for size in sizes]
    if counts.max() > 1 and not squares.any():
        first = sizes[int(np.argmax(counts > 1))]
        raise TableError(f"size {first!r}: all seeds gave one value; were results copied?")
    cost = np.array([macs[size] for size in sizes])
    return Estimates(sizes, cost, value, counts, squares, np.array(sampling, dtype=np.float64), stated)


@lru_cache
def quantile_t(dof: float) -> float:
    """The factor of a 95 % interval by Student's t; infinite degrees of freedom give the normal's 1.96."""
    return float(stdtrit(min(dof, 1e9), 0.975))


def around(value: float, error: float, dof: float) -> Interval:
    """An estimate with `dof` degrees of freedom behind its standard error; no error known: an infinite interval."""
    half = quantile_t(dof) * error if dof > 0 and math.isfinite(error) else math.inf
    return Interval(float(value), float(value - half), float(value + half))


def stream(seed: int, *key: object) -> np.random.Generator:
    """An independent generator for a key, so that no quantity depends on the order or presence of others."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    entropy = [seed, int.from_bytes(digest[:16], "little")]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
