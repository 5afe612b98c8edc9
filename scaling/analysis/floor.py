"""The power law with a floor, y = E + A C^-alpha, by its F profile: what the table does and does not tell apart.

On the log scale log y = c + log(e + C^-alpha) with e = E/A, which is linear in c alone. So c is solved for at every
point of a grid of (e, alpha) (variable projection), and one array of sums of squares holds every answer: the optimum,
and for each quantity the values that it takes wherever the sum of squares stays within the F quantile of the least.
Seeds are pooled with the residuals where these are few, as in `line`: four sizes leave one degree of freedom. No
optimizer can stop early, and no quadratic approximation is made, which at five sizes would be wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.special import fdtrc, fdtri

from scaling.analysis.line import ENOUGH, variances
from scaling.analysis.uncertainty import LARGEST_LOG, Estimates, FloatArray, Interval

Box = tuple[tuple[float, float], tuple[float, float]]  # of log e, and of log alpha

GRID, ROUNDS, STARTS, STEPS = 61, 2, 8, 60
LEAST_ALPHA, LARGEST_ALPHA = 0.01, 6.0
WIDE: Box = ((-9.0, 7.0), (math.log(LEAST_ALPHA), math.log(LARGEST_ALPHA)))
CHI2, TINY = 3.841458820694124, 1e-300  # the 95 % quantile with one degree of freedom
MOST_SIZES = 400  # more are pooled by neighbours
LEVEL = 0.05


@dataclass(frozen=True)
class FloorLaw:
    """y = E + A C^-alpha of one curve; each interval is an F profile over all parameters.

    `needed` is whether E = 0, the power law, is rejected at 5 %, `p` by how much; `identified` whether the interval of
    alpha stays inside what was searched. `scatter` is the relative standard deviation of one run.
    """

    E: Interval
    alpha: Interval
    p: float
    needed: bool
    identified: bool
    scatter: float
    profile: Profile = field(repr=False, compare=False)

    def at(self, macs: float) -> Interval:
        """The law's own score at a cost."""
        return self.profile.log_score(macs, 0.0).exp()

    def new_run(self, macs: float) -> Interval:
        """The score of one new run at a cost."""
        return self.profile.log_score(macs, 1.0).exp()


@dataclass(frozen=True)
class Profile:
    """The points of the grid within the F quantile: e = E/A and alpha [K], c and its sums of squares [K].

    Costs are relative to `center`; `weight` is the sum of the weights, `limit` the largest sum of squares, `run` the
    weight of one new run.
    """

    center: float
    e: FloatArray
    alpha: FloatArray
    c: FloatArray
    squares: FloatArray
    weight: float
    limit: float
    run: float

    @property
    def best(self) -> int:
        """The index of the least sum of squares."""
        return int(np.argmin(self.squares))

    def log_score(self, macs: float, runs: float) -> Interval:
        """The profile of the log score at a cost; with runs = 1 of a new run there, with its own scatter."""
        logs = self.c + np.log(self.e + np.exp(-self.alpha * math.log(macs / self.center)))
        room = np.maximum(self.limit - self.squares, 0.0) * (1 / self.weight + runs / self.run)
        half = np.sqrt(room)
        return Interval(float(logs[self.best]), float((logs - half).min()), float((logs + half).max()))

    def floor(self) -> Interval:
        """The profile of E = e A."""
        half = np.sqrt(np.maximum(self.limit - self.squares, 0.0) / self.weight)
        value = float(self.e[self.best]) * math.exp(self.c[self.best])
        return Interval(
            value, float((self.e * np.exp(self.c - half)).min()), float((self.e * np.exp(self.c + half)).max())
        )


def fit_floor(estimates: Estimates) -> FloorLaw:
    """Fit a curve of more sizes than three. ValueError for fewer."""
    if len(estimates.sizes) < 4:
        raise ValueError(f"{len(estimates.sizes)} sizes: a law with a floor needs four")
    x, y, counts = _pooled(estimates)
    free = len(x) - 3
    design = np.column_stack([np.ones(len(estimates.sizes)), estimates.logs])
    own, common = variances(estimates, design)
    seeds = _pooled_seeds(estimates, x, y, own, free)
    common = 0.0 if seeds else common
    w = 1 / (own + common) if len(x) == len(estimates.sizes) else counts
    grids = [_grid(x, y, w, WIDE)]
    best = _polish(x, y, w, grids[0])
    stated, dof = estimates.stated is not None, free + seeds
    scale = 1.0 if stated else max((float(best[3, 0]) + seeds) / dof, TINY)  # the seeds' own squares are `seeds`
    limit = float(best[3, 0]) + scale * (CHI2 if stated else float(fdtri(1, dof, 1 - LEVEL)))
    box = WIDE
    for _ in range(ROUNDS):
        box = _around(grids[-1], best, limit, box)
        grids.append(_grid(x, y, w, box))
    points = np.concatenate([best, *grids], axis=1)
    one_run = float(np.mean(own * estimates.seeds)) + common
    weight, run = float(w.sum()), 1 / one_run if len(x) == len(estimates.sizes) else 1.0
    profile = Profile(estimates.center, *points[:, points[3] <= limit], weight=weight, limit=limit, run=run)
    p = float(fdtrc(1, 1e9 if stated else dof, max(_least_power(x, y, w) - float(best[3, 0]), 0.0) / scale))
    exponents = Interval(float(best[1, 0]), float(profile.alpha.min()), float(profile.alpha.max()))
    identified = exponents.low > 1.05 * LEAST_ALPHA and exponents.high < 0.95 * LARGEST_ALPHA
    return FloorLaw(profile.floor(), exponents, p, p < LEVEL, identified, math.sqrt(scale * one_run), profile)


def _pooled_seeds(estimates: Estimates, x: FloatArray, y: FloatArray, own: FloatArray, free: int) -> int:
    """The seeds' degrees of freedom where they are pooled with the residuals, by the rule of `line`: where these have
    fewer than three, and the sizes do not lie further from the law than the seeds say. Else 0.
    """
    if estimates.stated is not None or not estimates.dof or free >= ENOUGH:
        return 0
    best = _polish(x, y, 1 / own, _grid(x, y, 1 / own, WIDE))
    return estimates.dof if float(best[3, 0]) <= free else 0


def _pooled(estimates: Estimates) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centred log costs, log scores and weights; of very many sizes the means of neighbours."""
    x, y = estimates.logs, estimates.value
    if len(x) <= MOST_SIZES:
        return x, y, np.ones(len(x))
    parts = np.array_split(np.argsort(x, kind="stable"), MOST_SIZES)
    return (
        np.array([x[part].mean() for part in parts]),
        np.array([y[part].mean() for part in parts]),
        np.array([float(len(part)) for part in parts]),
    )


def _least_power(x: FloatArray, y: FloatArray, w: FloatArray) -> float:
    """The least sum of squares of a power law: e = 0."""
    a = x - (w @ x) / w.sum()
    b = y - (w @ y) / w.sum()
    return max(float(w @ b**2 - (w @ (a * b)) ** 2 / (w @ a**2)), 0.0)


def _grid(x: FloatArray, y: FloatArray, w: FloatArray, box: Box, count: int = GRID) -> FloatArray:
    """e, alpha, the best c and the sum of squares, [4, K], over a grid of log e and log alpha, and over e = 0."""
    (low, high), (first, last) = box
    exponents = np.exp(np.linspace(first, last, count))
    floors = np.concatenate([[0.0], np.exp(np.linspace(low, high, count))])
    misses = y - np.log(floors[:, None, None] + np.exp(-exponents[:, None] * x))
    c = misses @ (w / w.sum())
    squares = ((misses - c[..., None]) ** 2) @ w
    e, alpha = np.broadcast_arrays(floors[:, None], exponents)
    return np.stack([each.ravel() for each in (e, alpha, c, squares)])


def _polish(x: FloatArray, y: FloatArray, w: FloatArray, grid: FloatArray) -> FloatArray:
    """The least point [4, 1]: damped Gauss-Newton steps in log e and log alpha from the best points, all at once."""
    order = np.argsort(grid[3])[: 4 * STARTS : 4]
    starts = np.log(np.maximum(grid[:2, order].T, math.exp(WIDE[0][0])))
    damping = np.full(len(starts), 1e-3)
    least = _missed(x, y, w, starts)[0]
    for _ in range(STEPS):
        _, misses, slopes = _missed(x, y, w, starts)
        normal = np.einsum("ksi,s,ksj->kij", slopes, w, slopes)
        normal += damping[:, None, None] * (normal * np.eye(2) + 1e-12 * np.eye(2))
        pull = np.einsum("ksi,s,ks->ki", slopes, w, misses)
        step = np.linalg.solve(normal, pull[..., None])[..., 0]
        tried = np.clip(starts + np.clip(step, -1, 1), *np.transpose(WIDE))
        squares = _missed(x, y, w, tried)[0]
        better = squares < least
        starts, least = np.where(better[:, None], tried, starts), np.where(better, squares, least)
        damping = np.where(better, damping / 4, np.minimum(damping * 6, 1e8))
    e, alpha = np.exp(starts[int(np.argmin(least))])
    point = (math.log(e), math.log(alpha))
    found = _grid(x, y, w, ((point[0], point[0]), (point[1], point[1])), 1)
    both = np.concatenate([found, grid[:, [int(np.argmin(grid[3]))]]], axis=1)
    return both[:, [int(np.argmin(both[3]))]]


def _missed(x: FloatArray, y: FloatArray, w: FloatArray, logs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """At log e and log alpha [K, 2], with c solved for: sums of squares [K], misses [K, S], slopes of the law [K, S,
    2].
    """
    e, alpha = np.exp(logs[:, :1]), np.exp(logs[:, 1:])
    falling = np.exp(np.clip(-alpha * x, -LARGEST_LOG, LARGEST_LOG))
    total = e + falling
    misses = y - np.log(total)
    slopes = np.stack([e / total, -alpha * x * falling / total], axis=-1)
    share = w / w.sum()
    misses = misses - (misses @ share)[:, None]
    slopes = slopes - np.einsum("ksi,s->ki", slopes, share)[:, None, :]
    return (misses**2) @ w, misses, slopes


def _around(grid: FloatArray, best: FloatArray, limit: float, box: Box) -> Box:
    """The part of a grid that holds the best point and all within the limit, a step wider, for the next and finer
    one.
    """
    points = np.concatenate([best, grid[:, grid[3] <= limit]], axis=1)
    floors, exponents = points[0, points[0] > 0], points[1]
    steps = [(high - low) / (GRID - 1) for low, high in box]
    first = max(math.log(exponents.min()) - steps[1], WIDE[1][0])
    last = min(math.log(exponents.max()) + steps[1], WIDE[1][1])
    if not len(floors):
        return box[0], (first, last)
    return (math.log(floors.min()) - steps[0], math.log(floors.max()) + steps[0]), (first, last)
