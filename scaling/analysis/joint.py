"""Laws of several curves at once: one exponent for teacher and students; size against steps at one sampling budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.analysis.line import fit_line, powers
from scaling.analysis.table import TEACHER
from scaling.analysis.uncertainty import Estimates, FloatArray, Interval, around

Key = tuple[str, int]
BUDGETS = 5
BETTER, WORSE, UNTOLD = "better", "worse", "cannot be told"


@dataclass(frozen=True)
class JointLaw:
    """One exponent shared by the teacher and its students, over the sizes that all of them have.

    The log scores of a size are averaged over the curves, which share its teacher and so are not independent; the
    interval is that of a power law through these means. `curves` are the (method, steps).
    """

    curves: tuple[Key, ...]
    sizes: tuple[str, ...]
    alpha: Interval


@dataclass(frozen=True)
class BudgetChoice:
    """At one sampling budget (multiply-adds a sample): `fewer` steps of a larger network, `more` of a smaller one.

    `ratio` is the score of the larger in fewer steps over that of the smaller in more; `fewer_is` says what follows.
    """

    budget: float
    fewer: int
    more: int
    fewer_macs: float
    more_macs: float
    ratio: Interval
    fewer_is: str


@dataclass(frozen=True)
class SamplingLaw:
    """y = A C^-alpha NFE^-beta of one method: what size and what steps are worth, and which to buy at one budget."""

    method: str
    alpha: Interval
    beta: Interval
    choices: tuple[BudgetChoice, ...]


def fit_joint(curves: Mapping[Key, Estimates]) -> JointLaw | None:
    """The shared exponent; None without a teacher, a student, and three sizes that all have."""
    teachers = [key for key in curves if key[0] == TEACHER]
    if not teachers or len(curves) < 2:
        return None
    shared = _shared([curves[teachers[0]], *curves.values()])
    if len(shared) < 3:
        return None
    mean = _mean([_only(curve, shared) for curve in curves.values()])
    alpha = fit_line(mean, powers(mean)).coefficient(1)
    return JointLaw((*curves,), tuple(shared), Interval(-alpha.value, -alpha.high, -alpha.low))


def fit_sampling(method: str, curves: Mapping[int, Estimates], nfe: Mapping[int, int]) -> SamplingLaw | None:
    """The law of one method over its steps; None for one number of steps, or fewer than three shared sizes."""
    steps = sorted(curves, key=lambda each: nfe[each])
    shared = _shared([curves[each] for each in steps])
    if len({nfe[each] for each in steps}) < 2 or len(shared) < 3:
        return None
    only = {each: _only(curves[each], shared) for each in steps}
    alpha = fit_line(_mean([*only.values()]), powers(only[steps[0]])).coefficient(1)
    gains = _gains(only, steps, nfe)
    beta = fit_line(gains, np.ones((len(shared), 1))).coefficient(0)
    choices = [
        choice
        for fewer, more in itertools.pairwise(steps)
        for choice in _choices(only[fewer], only[more], (fewer, more), (nfe[fewer], nfe[more]))
    ]
    return SamplingLaw(method, Interval(-alpha.value, -alpha.high, -alpha.low), beta, tuple(choices))


def _shared(curves: Sequence[Estimates]) -> list[str]:
    """The sizes that all curves have, in the order of the first."""
    common = set(curves[0].sizes).intersection(*(curve.sizes for curve in curves[1:]))
    return [size for size in curves[0].sizes if size in common]


def _only(curve: Estimates, sizes: Sequence[str]) -> Estimates:
    places = {size: place for place, size in enumerate(curve.sizes)}
    chosen = [places[size] for size in sizes]
    arrays = (curve.macs[chosen], curve.value[chosen], curve.seeds[chosen], curve.squares[chosen])
    return Estimates(tuple(sizes), *arrays, curve.sampling[chosen], curve.stated)


def _mean(curves: Sequence[Estimates]) -> Estimates:
    """The mean of curves over the same sizes, as single numbers: their scatter is read off the law."""
    first = curves[0]
    value = np.mean([curve.value for curve in curves], axis=0)
    return _single(first, value)


def _single(like: Estimates, value: FloatArray) -> Estimates:
    count = len(value)
    stated = None if like.stated is None else like.stated
    return Estimates(
        like.sizes, like.macs, value, np.ones(count, int), np.zeros(count), np.full(count, math.nan), stated
    )


def _gains(only: Mapping[int, Estimates], steps: Sequence[int], nfe: Mapping[int, int]) -> Estimates:
    """For each size the slope of its log score against log NFE, falling counted above 0."""
    x = np.log([nfe[each] for each in steps])
    x = x - x.mean()
    values = np.stack([only[each].value for each in steps])
    return _single(only[steps[0]], -(x @ values) / float(x @ x))


def _choices(fewer: Estimates, more: Estimates, steps: tuple[int, int], nfe: tuple[int, int]) -> list[BudgetChoice]:
    """Budgets that both can spend within the sizes measured.

    Both power laws stand on the same sizes, whose networks are the same: their residuals are correlated, and the
    covariance of the two fits is that of the residuals times the design's.
    """
    low = max(fewer.macs[0] * nfe[0], more.macs[0] * nfe[1])
    high = min(fewer.macs[-1] * nfe[0], more.macs[-1] * nfe[1])
    if not low < high:
        return []
    design = powers(fewer)
    inverse = np.linalg.inv(design.T @ design)
    dof = len(design) - 2
    both = np.stack([fewer.value, more.value])
    coefficients = both @ design @ inverse
    misses = both - coefficients @ design.T
    sigma = misses @ misses.T / dof
    choices = []
    for budget in np.geomspace(low, high, BUDGETS):
        sizes = budget / np.array(nfe)
        rows = np.column_stack([np.ones(2), np.log(sizes / fewer.center)])
        value = float(rows[0] @ coefficients[0] - rows[1] @ coefficients[1])
        signs = np.array([1, -1])
        variance = float(np.einsum("i,j,ij,ia,ab,jb", signs, signs, sigma, rows, inverse, rows))
        log = around(value, math.sqrt(max(variance, 0)), dof)
        verdict = BETTER if log.high < 0 else WORSE if log.low > 0 else UNTOLD
        choices.append(BudgetChoice(float(budget), *steps, float(sizes[0]), float(sizes[1]), log.exp(), verdict))
    return choices
