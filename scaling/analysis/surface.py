"""L(N, D) = E + A/N^alpha + B/D^beta: parameters and images (or tokens) seen together, and the best split of a budget.

Minimised is the sum over rows of Huber(delta = 1e-3) of the log residual, as Hoffmann et al. (2022) do, by Newton's
method from many starts at once (`newton`). Only the bootstrap over rows gives standard errors that are right for this
objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.analysis.newton import ALPHA, BETA, DELTA, FLOOR, A, B, Rows, minimise, shares
from scaling.analysis.table import Row, TableError
from scaling.analysis.uncertainty import LARGEST_LOG, FloatArray, Interval, quantile_t, stream

PARAMETERS = 5
RESAMPLES, MOST_CELLS, LEAST_RESAMPLES = 4000, 4_000_000, 200
EXPONENTS = (0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5)
LEAST_ROWS = 8
TINY = 1e-300
MACS_AN_IMAGE = 3  # multiply-adds of a training step, forward and backward, for each parameter and image
HELD_BACK = (1 / 3, 1 / 10, 1 / 30)  # of the largest compute: rows above it are predicted
FLAT = 0.02  # a share of a term that is nowhere larger is not in the table


@dataclass(frozen=True)
class SurfaceData:
    """N, D and scores [K] of a table."""

    n: FloatArray
    d: FloatArray
    score: FloatArray
    places: tuple[str, ...]

    @property
    def compute(self) -> FloatArray:
        """Training multiply-adds [K], counted 3 N D."""
        return MACS_AN_IMAGE * self.n * self.d

    def rows(self) -> Rows:
        """Centred logs."""
        n, d = (np.log(each) - np.log(each).mean() for each in (self.n, self.d))
        return Rows(n, d, np.log(self.score))

    def only(self, chosen: FloatArray) -> SurfaceData:
        """The rows where `chosen` [K] is true."""
        index = np.flatnonzero(chosen)
        return SurfaceData(self.n[index], self.d[index], self.score[index], tuple(self.places[i] for i in index))


@dataclass(frozen=True)
class HeldBack:
    """Fitted on compute below `below`; errors are predicted / measured - 1 on the `rows` above it."""

    below: float
    rows: int
    mean_absolute: float
    largest: float


@dataclass(frozen=True)
class SurfaceLaw:
    """The law with 95 % intervals and `errors`, the bootstrap's standard deviations, in the order E, A, B, alpha, beta.

    `split`: N* grows as C^split, with split = beta / (alpha + beta). `loss` is the sum of Huber losses, `covariance`
    that of (E, A, B, alpha, beta) over `resamples`. `draws` [R, 5] are these parameters under resampling.
    """

    E: Interval
    A: Interval
    B: Interval
    alpha: Interval
    beta: Interval
    split: Interval
    errors: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    loss: float
    rows: int
    resamples: int
    held_back: tuple[HeldBack, ...]
    warnings: tuple[str, ...]
    draws: FloatArray = field(repr=False, compare=False)

    @property
    def parameters(self) -> FloatArray:
        """E, A, B, alpha, beta."""
        return np.array([one.value for one in (self.E, self.A, self.B, self.alpha, self.beta)])

    def score(self, n: float, d: float) -> Interval:
        """The law's score at N, D, with the interval of the law (not of one run)."""
        value, draws = (_score(each, n, d) for each in (self.parameters[None], self.draws))
        return percentile(float(value[0]), draws, self.rows, log=True)

    def optimum(self, compute: float) -> tuple[Interval, Interval, Interval]:
        """N*, D* and the score of so many training multiply-adds, spent best."""
        value, draws = (_optimum(each, compute) for each in (self.parameters[None], self.draws))
        n, d, score = (percentile(float(v[0]), r, self.rows, log=True) for v, r in zip(value, draws, strict=True))
        return n, d, score


def surface_data(rows: Sequence[Row]) -> SurfaceData:
    """N and D of the rows; D is images seen or, where the table has training compute alone, compute / (3 N).

    Raises TableError naming rows that have neither, copies of rows, and too few rows.
    """
    lacking = [row.place for row in rows if row.parameters is None or (row.images is None and row.training is None)]
    if lacking:
        raise TableError(
            f"--law surface: parameters and images (or training) are missing in {', '.join(lacking[:8])}"
            f"{f' and {len(lacking) - 8} more' if len(lacking) > 8 else ''}: name their columns with --column"
        )
    n = np.array([row.parameters for row in rows], dtype=np.float64)
    d = np.array([row.images or (row.training or 0) / (MACS_AN_IMAGE * (row.parameters or 1)) for row in rows])
    data = SurfaceData(n, d, np.array([row.fd for row in rows]), tuple(row.place for row in rows))
    seen: dict[tuple[float, float, float], str] = {}
    for key, place in zip(zip(n, d, data.score, strict=True), data.places, strict=True):
        if seen.setdefault(key, place) is not place:
            raise TableError(
                f"{place} and {seen[key]}: parameters, images and score are equal, one run twice; keep one"
            )
    if len(rows) < LEAST_ROWS:
        raise TableError(f"--law surface: {len(rows)} rows for {PARAMETERS} parameters: {LEAST_ROWS} at least")
    if min(len(set(n)), len(set(d))) < 3:
        raise TableError("--law surface: needs three different numbers of parameters and of images at least")
    return data


def fit_surface(
    data: SurfaceData, *, resamples: int | None = None, delta: float = DELTA, seed: int = 0, hold_back: bool = True
) -> SurfaceLaw:
    """Fit the law and resample its rows."""
    count = len(data.n)
    resamples = resamples or int(np.clip(MOST_CELLS // count, LEAST_RESAMPLES, RESAMPLES))
    theta, loss = best_fit(data, delta)
    draws = bootstrap(data, theta, resamples, delta, seed)
    value = natural(data, theta[None])[0]
    e, a, b = (percentile(value[i], draws[:, i], count, log=True) for i in range(3))
    alpha, beta = (percentile(value[i], draws[:, i], count) for i in (3, 4))
    split = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    covariance = np.cov(draws.T)
    return SurfaceLaw(
        *(e, a, b, alpha, beta),
        split=percentile(value[4] / (value[3] + value[4]), split, count),
        errors=tuple(float(each) for each in draws.std(axis=0, ddof=1)),
        covariance=tuple(tuple(float(each) for each in row) for row in covariance),
        loss=loss,
        rows=count,
        resamples=resamples,
        held_back=tuple(_hold_back(data, delta)) if hold_back else (),
        warnings=tuple(_warnings(data, theta, delta)),
        draws=draws,
    )


def best_fit(data: SurfaceData, delta: float = DELTA) -> tuple[FloatArray, float]:
    """The best theta [5] (of `newton`) over all starts, and its loss."""
    rows, starts = data.rows(), _starts(data.rows())
    counts = np.ones((len(starts), len(rows.y)))
    # A wide corner first: under 1e-3 almost every row of a poor start is an outlier, and the loss is nearly flat.
    theta, _ = minimise(rows, starts, counts, max(delta, 0.1))
    theta, loss = minimise(rows, theta, counts, delta)
    best = int(np.argmin(loss))
    return theta[best], float(loss[best])


def _starts(rows: Rows) -> FloatArray:
    """A start for each pair of exponents: the levels of the three terms by least squares, kept above 0."""
    found = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            terms = np.stack([np.exp(-alpha * rows.n), np.exp(-beta * rows.d), np.ones_like(rows.y)], axis=1)
            weights = np.exp(-rows.y)[:, None]
            levels = np.linalg.lstsq(terms * weights, np.ones(len(rows.y)))[0]
            a, b, e = np.log(np.maximum(levels, 0.05 * np.exp(rows.y.mean())))
            found.append((a, alpha, b, beta, e))
    return np.array(found)


def bootstrap(data: SurfaceData, theta: FloatArray, resamples: int, delta: float = DELTA, seed: int = 0) -> FloatArray:
    """E, A, B, alpha, beta [R, 5] refitted to resampled rows, from the fit to all of them."""
    count = len(data.n)
    counts = stream(seed, "surface", count).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    found, _ = minimise(data.rows(), np.broadcast_to(theta, (resamples, PARAMETERS)).copy(), counts, delta)
    return natural(data, found)


def natural(data: SurfaceData, theta: FloatArray) -> FloatArray:
    """E, A, B, alpha, beta [R, 5] of theta [R, 5], whose N and D are centred."""
    n, d = np.log(data.n).mean(), np.log(data.d).mean()
    logs = np.stack([theta[:, FLOOR], theta[:, A] + theta[:, ALPHA] * n, theta[:, B] + theta[:, BETA] * d], axis=1)
    return np.column_stack([np.exp(np.clip(logs, -700, 700)), theta[:, ALPHA], theta[:, BETA]])


def percentile(value: float, draws: FloatArray, rows: int, *, log: bool = False) -> Interval:
    """The bootstrap's 95 % interval, widened about the estimate by what a t interval of so many rows is over a normal
    one.

    With hundreds of rows that is nothing; with a dozen, percentiles are too narrow by it.
    """
    widen = quantile_t(rows - PARAMETERS) / 1.96 * math.sqrt(rows / (rows - PARAMETERS))
    if log:
        logs = percentile(0.0, np.log(np.maximum(draws, TINY) / max(value, TINY)), rows)
        return Interval(
            float(value), *(float(value * math.exp(min(end, LARGEST_LOG))) for end in (logs.low, logs.high))
        )
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(
        float(value), float(value - widen * max(value - low, 0)), float(value + widen * max(high - value, 0))
    )


def _score(parameters: FloatArray, n: float, d: float) -> FloatArray:
    e, a, b, alpha, beta = parameters.T
    return e + a * n**-alpha + b * d**-beta


def _optimum(parameters: FloatArray, compute: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """N*, D* and the score [R]: G (C/k)^(beta/(alpha+beta)), with G = (alpha A / (beta B))^(1/(alpha+beta))."""
    e, a, b, alpha, beta = parameters.T
    pairs = compute / MACS_AN_IMAGE
    ratio = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    n = ratio * pairs ** (beta / (alpha + beta))
    d = pairs / n
    return n, d, e + a * n**-alpha + b * d**-beta


def _hold_back(data: SurfaceData, delta: float) -> list[HeldBack]:
    found, largest = [], data.compute.max()
    for share in HELD_BACK:
        kept = data.compute < share * largest
        if kept.sum() < 2 * LEAST_ROWS or kept.all():
            continue
        below = data.only(kept)
        parameters = natural(below, best_fit(below, delta)[0][None])
        others = np.flatnonzero(~kept)
        errors = np.array([_score(parameters, data.n[i], data.d[i])[0] / data.score[i] - 1 for i in others])
        top = int(np.argmax(data.compute[others]))
        found.append(HeldBack(float(share * largest), len(others), float(np.abs(errors).mean()), float(errors[top])))
    return found


def _warnings(data: SurfaceData, theta: FloatArray, delta: float) -> list[str]:
    pa, pb, pe = shares(data.rows(), theta[None])
    warnings = [
        f"{name} is nowhere more than {FLAT:.0%} of the score: {what} cannot be told from this table"
        for share, name, what in ((pa, "A/N^alpha", "A, alpha"), (pb, "B/D^beta", "B, beta"), (pe, "E", "the floor"))
        if share.max() < FLAT
    ]
    correlation = float(np.corrcoef(np.log(data.n), np.log(data.d))[0, 1])
    if abs(correlation) > 0.95:
        warnings.append(f"log N and log D are correlated by {correlation:.3f}: their two terms are hardly told apart")
    return warnings
