"""Which runs to pay for next: those that shrink the predicted interval at a target most for their price.

The variance of the predicted log score at the target is g^T M^-1 g, with M the Fisher information of all runs and g the
gradient of the law there. Its logarithm is averaged over what the law may be: exponents and floors of the posterior,
with and without a floor, because the two want different sizes (Elfving: two sizes without a floor, three with one, and
where cost grows as the square of the size the largest gets nothing without one). The best shares of the money come from
the multiplicative algorithm of optimal design, under a cap for a size, since extrapolation leans on the law; whole runs
by rounding down, filling up and exchanging.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaling.analysis.uncertainty import FloatArray, IntArray

ITERATIONS, EXCHANGES = 400, 60
# Standard deviations of what is believed beforehand: log level, exponent, effect of the log of the length, floor.
PRIOR = np.array([3.0, 0.3, 0.3, 1.0])


@dataclass(frozen=True)
class Candidate:
    """A run that may be bought, with all its methods: cost of a forward pass, share of the full length,
    device-hours.
    """

    size: str
    macs: float
    length: float
    hours: float


@dataclass(frozen=True)
class Possible:
    """A law that the truth may be: y ~ e + (C/center)^-alpha; e = 0 is a power law, whose floor is not fitted."""

    alpha: float
    e: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Candidates, runs that are there (cost, length), the target's cost, possible laws, and the scatter of one run.

    `center` is the cost that the floors e are relative to.
    """

    candidates: tuple[Candidate, ...]
    existing: tuple[tuple[float, float], ...]
    target: float
    laws: tuple[Possible, ...]
    center: float
    scatter: float

    def gradients(self, macs: FloatArray, length: FloatArray) -> FloatArray:
        """Gradients [L, K, 4] of the log score by log level, exponent, length and floor, for each law."""
        x = np.log(macs / self.center)
        found = []
        for law in self.laws:
            falling = np.exp(-law.alpha * x)
            total = law.e + falling
            floor = 1 / total if law.e > 0 else np.zeros_like(x)
            found.append(np.stack([np.ones_like(x), -x * falling / total, -np.log(length), floor], axis=1))
        return np.array(found)

    @property
    def before(self) -> FloatArray:
        """The information [L, 4, 4] of what is believed and of the runs that are there, in units of one run's."""
        prior = np.diag((self.scatter / PRIOR) ** 2)
        there = np.array(self.existing, dtype=np.float64).reshape(-1, 2)
        rows = self.gradients(there[:, 0], there[:, 1])
        return prior + np.einsum("lki,lkj->lij", rows, rows)

    @property
    def goal(self) -> FloatArray:
        """The gradients [L, 4] at the target, at full length."""
        return self.gradients(np.array([self.target]), np.ones(1))[:, 0]


@dataclass(frozen=True)
class Design:
    """Runs of each candidate, their device-hours, and the standard deviation of the predicted log score at the target.

    `law_sd` is without the scatter of the run there itself: for the power laws and for those with a floor, before and
    after.
    """

    runs: tuple[int, ...]
    hours: float
    power_before: float
    power_after: float
    floor_before: float
    floor_after: float


def choose(problem: Problem, budget: float, cap: float = 0.7) -> Design:
    """The best affordable runs; no size gets more than `cap` of the money. ValueError where nothing is affordable."""
    hours = np.array([one.hours for one in problem.candidates])
    if not (hours <= budget).any():
        raise ValueError(f"the cheapest run takes {hours.min():.3g} device-hours, more than the budget of {budget:g}")
    rows = problem.gradients(*(np.array([getattr(c, name) for c in problem.candidates]) for name in ("macs", "length")))
    shares = _shares(problem, rows, hours, budget, cap)
    counts = np.floor(shares * budget / hours + 1e-9).astype(np.int64)
    counts = _fill(problem, rows, hours, budget, cap, counts)
    return evaluate(problem, _exchange(problem, rows, hours, budget, cap, counts))


def evaluate(problem: Problem, counts: Sequence[int] | IntArray) -> Design:
    """What so many runs of each candidate give."""
    counts = np.asarray(counts)
    hours = float(counts @ np.array([one.hours for one in problem.candidates]))
    rows = problem.gradients(*(np.array([getattr(c, name) for c in problem.candidates]) for name in ("macs", "length")))
    before, after = (np.sqrt(_variances(problem, rows, each)) * problem.scatter for each in (0 * counts, counts))
    floored = np.array([law.e > 0 for law in problem.laws])

    def mean(values: FloatArray, chosen: npt.NDArray[np.bool_]) -> float:
        return float(np.exp(np.log(values[chosen]).mean())) if chosen.any() else math.nan

    ends = (mean(values, chosen) for chosen in (~floored, floored) for values in (before, after))
    return Design(tuple(int(each) for each in counts), hours, *ends)


def _variances(problem: Problem, rows: FloatArray, counts: FloatArray | IntArray) -> FloatArray:
    """g^T M^-1 g [L] with so many runs."""
    information = problem.before + np.einsum("k,lki,lkj->lij", counts.astype(float), rows, rows)
    solved = np.linalg.solve(information, problem.goal[..., None])[..., 0]
    return np.einsum("li,li->l", problem.goal, solved)


def _criterion(problem: Problem, rows: FloatArray, counts: FloatArray | IntArray) -> float:
    return float(np.log(_variances(problem, rows, counts)).mean())


def _shares(problem: Problem, rows: FloatArray, hours: FloatArray, budget: float, cap: float) -> FloatArray:
    """The best shares [K] of the money if runs could be divided."""
    affordable = hours <= budget
    weights = affordable / affordable.sum()
    for _ in range(ITERATIONS):
        information = problem.before + np.einsum("k,lki,lkj->lij", weights * budget / hours, rows, rows)
        solved = np.linalg.solve(information, problem.goal[..., None])[..., 0]
        variance = np.einsum("li,li->l", problem.goal, solved)
        gain = (np.einsum("li,lki->lk", solved, rows) ** 2 / variance[:, None]).mean(axis=0) / hours
        weights = _capped(problem, weights * np.sqrt(np.maximum(gain, 1e-300)), cap)
    return weights


def _capped(problem: Problem, weights: FloatArray, cap: float) -> FloatArray:
    """Weights that sum to one, no size above the cap; what is cut goes to the others."""
    weights = weights / weights.sum()
    for size in {one.size for one in problem.candidates}:
        own = np.array([one.size == size for one in problem.candidates])
        total, rest = weights[own].sum(), weights[~own].sum()
        if total > cap and rest > 0:
            weights = np.where(own, weights * cap / total, weights * (1 - cap) / rest)
    return weights


def _affordable(problem: Problem, hours: FloatArray, budget: float, cap: float, counts: IntArray, index: int) -> bool:
    """Whether one more run of a candidate fits into the budget and under the cap; a first run of a size always may."""
    same = np.array([one.size == problem.candidates[index].size for one in problem.candidates])
    of_size = float(counts[same] @ hours[same])
    within = of_size + hours[index] <= cap * budget or of_size == 0
    return within and float(counts @ hours) + hours[index] <= budget * (1 + 1e-9)


def _fill(
    problem: Problem, rows: FloatArray, hours: FloatArray, budget: float, cap: float, counts: IntArray
) -> IntArray:
    """Spend what rounding down left on the run that gains most for its price, again and again."""
    while True:
        now = _criterion(problem, rows, counts)
        gains = {
            i: (now - _criterion(problem, rows, counts + np.eye(len(hours), dtype=np.int64)[i])) / hours[i]
            for i in range(len(hours))
            if _affordable(problem, hours, budget, cap, counts, i)
        }
        if not gains:
            return counts
        best = max(gains, key=lambda i: gains[i])
        counts = counts + np.eye(len(hours), dtype=np.int64)[best]


def _exchange(
    problem: Problem, rows: FloatArray, hours: FloatArray, budget: float, cap: float, counts: IntArray
) -> IntArray:
    """Give up one run and spend its money otherwise, as long as that is better."""
    best, now = counts, _criterion(problem, rows, counts)
    for _ in range(EXCHANGES):
        tried = []
        for i in np.flatnonzero(best):
            less = best - np.eye(len(hours), dtype=np.int64)[i]
            for j in range(len(hours)):
                if j != i and _affordable(problem, hours, budget, cap, less, j):
                    more = less + np.eye(len(hours), dtype=np.int64)[j]
                    tried.append(_fill(problem, rows, hours, budget, cap, more))
        if not tried:
            return best
        found = min(tried, key=lambda each: _criterion(problem, rows, each))
        if (value := _criterion(problem, rows, found)) >= now - 1e-9:
            return best
        best, now = found, value
    return best
