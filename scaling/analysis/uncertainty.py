"""Where the intervals of an analysis come from: draws of log distances, by seeds, by samples, or by a stated noise.

Every quantity of the analysis is a function of log distances, and its 95 % interval is the middle 95 % of that function
over draws. What the draws hold depends on what was measured, and each interval names its source:

seeds
    Two runs or more of one size that differ in the seed alone. Three seeds have no bootstrap distribution worth the
    name (27 resamples, and their spread is too small by a factor sqrt(2/3)), so the logs are taken as normal with one
    variance, pooled over the sizes of a (method, steps) curve, and the draws follow Student's t with the pooled degrees
    of freedom: exact for normal logs, 2.2 standard errors at five sizes of three seeds where one size alone would need
    4.3. It assumes that the scatter of the log is the same at every size. A size with one seed takes the scatter of the
    others. Samples of all seeds share their noise, so what that noise has in common is not in the scatter.
samples
    One run, and bootstrap replicates of its distance. They know how finite N moves the distance, and nothing about how
    another seed would have trained. The distance of a resample is biased upward once more by what finite N already adds
    to the distance itself (about d/N in units of the spread, additive), so replicates are centred on their own mean and
    divided by the measured distance. What is estimated is the distance at this N. The draws are the basic bootstrap on
    the log scale (errors are subtracted, so that skewness falls on the right side).
noise
    A single number, as in a published table: a stated relative standard deviation, by default 2 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scaling.analysis.table import Row, TableError

FloatArray = npt.NDArray[np.float64]
SEEDS, SAMPLES, NOISE = "seeds", "samples", "noise"


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """How draws are made: relative noise of a bare number, draws per quantity, and the seed of all streams."""

    relative_noise: float
    resamples: int
    seed: int

    def stream(self, *key: object) -> np.random.Generator:
        """An independent generator for a key, so that no quantity depends on the order or presence of others."""
        digest = hashlib.sha256(repr(key).encode()).digest()
        entropy = [self.seed, int.from_bytes(digest[:16], "little")]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


@dataclass(frozen=True)
class Observation:
    """One measured log quantity, with draws [R] of the error it was measured with, apart from the seed's."""

    value: float
    errors: FloatArray
    source: str


@dataclass(frozen=True)
class Estimates:
    """Log quantities of one (method, steps) curve over S sizes in order of multiply-adds.

    `value` and `error` [S] are the estimates and standard errors, `draws` [R, S] their joint distribution, `dof` the
    degrees of freedom behind the standard errors (infinite unless they come from seeds), `seeds` [S] the seeds of each.
    """

    sizes: tuple[str, ...]
    macs: FloatArray
    value: FloatArray
    error: FloatArray
    dof: float
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    draws: FloatArray = field(repr=False)

    def exp_draws(self) -> FloatArray:
        """The draws [R, S] of the quantities themselves; the far tails of Student's t are cut before they overflow."""
        return np.exp(np.clip(self.draws, -700, 700))


def observe(row: Row, resampling: Resampling) -> Observation:
    """The log distance of a row with R draws of its relative error: from its replicates, else from the stated noise."""
    random = resampling.stream("row", row.method, row.steps, row.size, row.seed)
    if row.replicates is None:
        errors = random.normal(0.0, resampling.relative_noise, resampling.resamples)
        return Observation(float(np.log(row.fd)), errors, NOISE)
    relative = (row.replicates - row.replicates.mean()) / row.fd
    chosen = random.integers(len(relative), size=resampling.resamples)
    return Observation(float(np.log(row.fd)), relative[chosen], SAMPLES)


def divide(numerator: Observation, denominator: Observation) -> Observation:
    """The log ratio of two independently measured distances."""
    source = SAMPLES if numerator.source == denominator.source == SAMPLES else NOISE
    return Observation(numerator.value - denominator.value, numerator.errors - denominator.errors, source)


def average(observations: Sequence[Observation]) -> Observation:
    """The mean log of several observations of one quantity."""
    value = float(np.mean([one.value for one in observations]))
    return Observation(value, np.mean([one.errors for one in observations], axis=0), observations[0].source)


def combine(
    observed: Mapping[str, Sequence[Observation]],
    macs: Mapping[str, float],
    random: np.random.Generator,
    resamples: int,
) -> Estimates:
    """Estimates of a curve from the observations of each size, one for each seed.

    Raises TableError when a size has no scatter at all, which means that one result was copied.
    """
    sizes = tuple(sorted(observed, key=lambda size: (macs[size], size)))
    groups = [observed[size] for size in sizes]
    counts = np.array([len(group) for group in groups])
    value = np.array([float(np.mean([one.value for one in group])) for group in groups])
    dof = int((counts - 1).sum())
    if dof > 0:
        squares = sum(
            float(np.sum((np.array([one.value for one in g]) - m) ** 2)) for g, m in zip(groups, value, strict=True)
        )
        error = np.sqrt(squares / dof / counts)
        # One factor per draw for all sizes: they share the estimate of the variance.
        scale = np.sqrt(dof / random.chisquare(dof, resamples))[:, None]
        draws = value + error * scale * random.standard_normal((resamples, len(sizes)))
        sources = (SEEDS,) * len(sizes)
    else:
        errors = np.stack([group[0].errors for group in groups], axis=1)
        error = errors.std(axis=0, ddof=1)
        draws = value - errors
        sources = tuple(group[0].source for group in groups)
    if not (error > 0).all():
        raise TableError(
            f"size {sizes[int(np.argmin(error))]!r}: all {sources[0]} gave one value; were results copied?"
        )
    order = np.array([macs[size] for size in sizes])
    return Estimates(sizes, order, value, error, dof or np.inf, sources, tuple(int(n) for n in counts), draws)


def interval(value: float, draws: FloatArray) -> Interval:
    """The middle 95 % of draws [R] around an estimate."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(float(value), float(low), float(high))
