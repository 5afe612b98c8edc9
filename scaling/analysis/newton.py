"""Sum of Huber losses of log residuals of L = E + A/N^alpha + B/D^beta, for thousands of weightings of the rows at
once.

Parameters are theta = (a, alpha, b, beta, e) with log L = logsumexp(a - alpha n, b - beta d, e), n and d the centred
logs of N and D. Gradient and Hessian are exact. With r the residual, psi = clip(r, +-delta), p the shares of the three
terms and w the counts, the Hessian is J^T diag(w [|r| <= delta] - w psi) J plus blocks of w psi p; J is never formed,
since every entry is one of six products of shares times a power of n or d. The 5 x 5 systems are scaled by their
diagonals and solved with the absolute values of their eigenvalues, so that every step goes down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.analysis.uncertainty import FloatArray, IntArray

DELTA = 1e-3
CHUNK = 300  # weightings at once: what the cache holds
STEPS, FALL = 300, 1e-13  # a row is done when the step is to lower its loss by less
LARGEST_EXPONENT = 60.0
A, ALPHA, B, BETA, FLOOR = range(5)


@dataclass(frozen=True)
class Rows:
    """Centred log N and log D [K] and log scores [K], with the powers of n and d that the Hessian needs."""

    n: FloatArray
    d: FloatArray
    y: FloatArray

    @cached_property
    def squares_n(self) -> FloatArray:
        """[K, 3]: 1, n, n^2."""
        return np.stack([np.ones_like(self.n), self.n, self.n**2], axis=1)

    @cached_property
    def squares_d(self) -> FloatArray:
        """[K, 3]: 1, d, d^2."""
        return np.stack([np.ones_like(self.d), self.d, self.d**2], axis=1)

    @cached_property
    def mixed(self) -> FloatArray:
        """[K, 4]: 1, n, d, n d."""
        return np.stack([np.ones_like(self.n), self.n, self.d, self.n * self.d], axis=1)


def _two_shares(rows: Rows, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The shares [R, K] of the first two terms, and the log residuals [R, K], of theta [R, 5]."""
    first = np.exp(np.clip(theta[:, A, None] - theta[:, ALPHA, None] * rows.n, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    second = np.exp(np.clip(theta[:, B, None] - theta[:, BETA, None] * rows.d, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    total = first + second
    total += np.exp(np.clip(theta[:, FLOOR, None], -LARGEST_EXPONENT, LARGEST_EXPONENT))
    first /= total
    second /= total
    np.log(total, out=total)
    total -= rows.y
    return first, second, total


def shares(rows: Rows, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The shares [R, K] of A/N^alpha, B/D^beta and E, of theta [R, 5]."""
    first, second, _ = _two_shares(rows, theta)
    return first, second, 1 - first - second


def losses(rows: Rows, theta: FloatArray, counts: FloatArray, delta: float = DELTA) -> FloatArray:
    """The sum of Huber losses [R] of theta [R, 5] under counts [R, K]."""
    return _huber(_two_shares(rows, theta)[2], counts, delta)


def _huber(residual: FloatArray, counts: FloatArray, delta: float) -> FloatArray:
    psi = np.clip(residual, -delta, delta)
    return np.einsum("rk,rk->r", counts, psi * (residual - psi / 2))


def derivatives(
    rows: Rows, theta: FloatArray, counts: FloatArray, delta: float = DELTA
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Loss [R], gradient [R, 5] and Hessian [R, 5, 5]."""
    pa, pb, residual = _two_shares(rows, theta)
    psi = np.clip(residual, -delta, delta)
    pull = counts * psi
    curve = counts * (psi == residual)
    curve -= pull
    # The third share is what the other two leave of 1, and so are its sums.
    in_n, in_d = rows.squares_n, rows.squares_d
    sa, sb = (pull * pa) @ in_n, (pull * pb) @ in_d
    ge = pull.sum(axis=1) - sa[:, 0] - sb[:, 0]
    gradient = np.stack([sa[:, 0], -sa[:, 1], sb[:, 0], -sb[:, 1], ge], axis=1)
    qa, qb = curve * pa, curve * pb
    ta, tb, ab = qa @ in_n, qb @ in_d, (qa * pb) @ rows.mixed
    qa *= pa
    qb *= pb
    ua, ub = qa @ in_n, qb @ in_d
    ae = ta[:, :2] - ua[:, :2] - ab[:, :2]
    be = tb[:, :2] - ub[:, :2] - ab[:, [0, 2]]
    ee = curve.sum(axis=1) - ta[:, 0] - tb[:, 0] - ae[:, 0] - be[:, 0] + ge
    aa, bb = ua + sa, ub + sb
    hessian = np.empty((len(theta), 5, 5))
    hessian[:, A, A], hessian[:, A, ALPHA], hessian[:, ALPHA, ALPHA] = aa[:, 0], -aa[:, 1], aa[:, 2]
    hessian[:, B, B], hessian[:, B, BETA], hessian[:, BETA, BETA] = bb[:, 0], -bb[:, 1], bb[:, 2]
    hessian[:, A, B], hessian[:, A, BETA] = ab[:, 0], -ab[:, 2]
    hessian[:, ALPHA, B], hessian[:, ALPHA, BETA] = -ab[:, 1], ab[:, 3]
    hessian[:, A, FLOOR], hessian[:, ALPHA, FLOOR] = ae[:, 0], -ae[:, 1]
    hessian[:, B, FLOOR], hessian[:, BETA, FLOOR] = be[:, 0], -be[:, 1]
    hessian[:, FLOOR, FLOOR] = ee
    lower = np.tril_indices(5, -1)
    hessian[:, lower[0], lower[1]] = hessian[:, lower[1], lower[0]]
    return _huber(residual, counts, delta), gradient, hessian


def minimise(rows: Rows, starts: FloatArray, counts: FloatArray, delta: float = DELTA) -> tuple[FloatArray, FloatArray]:
    """The optima [R, 5] and losses [R] of R weightings [R, K], each from its own start [R, 5]."""
    theta, active = starts.copy(), np.arange(len(starts))
    damping = np.full(len(starts), 1e-3)
    loss, gradient, hessian = _in_chunks(rows, theta, counts, active, delta)
    for _ in range(STEPS):
        step, fall = _step(gradient[active], hessian[active], damping[active])
        going = fall > FALL
        active, step = active[going], step[going]
        if not len(active):
            break
        tried = theta[active] + step
        found = _in_chunks(rows, tried, counts, active, delta)
        better = found[0] <= loss[active]
        moved = active[better]
        theta[moved] = tried[better]
        loss[moved], gradient[moved], hessian[moved] = (each[better] for each in found)
        damping[active] = np.where(better, damping[active] / 10, damping[active] * 30).clip(1e-12, 1e12)
    return theta, loss


def _in_chunks(
    rows: Rows, theta: FloatArray, counts: FloatArray, active: IntArray, delta: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The derivatives at theta [R, 5] under the counts of the active weightings [R]."""
    parts = [
        derivatives(rows, theta[first : first + CHUNK], counts[active[first : first + CHUNK]], delta)
        for first in range(0, len(theta), CHUNK)
    ]
    loss, gradient, hessian = (np.concatenate(each) for each in zip(*parts, strict=True))
    return loss, gradient, hessian


def _step(gradient: FloatArray, hessian: FloatArray, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The step [R, 5] and by how much the quadratic model falls [R].

    Newton's where it goes down; elsewhere, at saddles, that with the absolute values of the eigenvalues.
    """
    diagonal = np.abs(np.einsum("rii->ri", hessian))
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    scaled, slope = hessian * scale[:, :, None] * scale[:, None, :], gradient * scale
    step = -np.linalg.solve(scaled + (damping + 1e-14)[:, None, None] * np.eye(5), slope[..., None])[..., 0]
    down = -np.einsum("ri,ri->r", step, slope)
    saddle = np.flatnonzero(~(down > 0) | (np.abs(step).max(axis=1) > 10))
    if len(saddle):
        values, vectors = np.linalg.eigh(scaled[saddle])
        along = np.einsum("rij,ri->rj", vectors, slope[saddle])
        sizes = np.abs(values) + damping[saddle, None] + 1e-14
        step[saddle] = -np.einsum("rij,rj->ri", vectors, along / sizes)
        down[saddle] = np.einsum("rj,rj->r", along / sizes, along)
    return np.clip(step * scale, -3, 3), down / 2
