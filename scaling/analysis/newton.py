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

import numpy as np

from scaling.analysis.uncertainty import FloatArray

DELTA = 1e-3
CHUNK = 150  # weightings at once: what the cache holds
STEPS, FALL = 300, 1e-13  # a row is done when the step is to lower its loss by less
LARGEST_EXPONENT = 60.0
A, ALPHA, B, BETA, FLOOR = range(5)


@dataclass(frozen=True)
class Rows:
    """Centred log N and log D [K] and log scores [K], with the powers of n and d that the Hessian needs."""

    n: FloatArray
    d: FloatArray
    y: FloatArray

    @property
    def squares_n(self) -> FloatArray:
        """[K, 3]: 1, n, n^2."""
        return np.stack([np.ones_like(self.n), self.n, self.n**2], axis=1)

    @property
    def squares_d(self) -> FloatArray:
        """[K, 3]: 1, d, d^2."""
        return np.stack([np.ones_like(self.d), self.d, self.d**2], axis=1)

    @property
    def mixed(self) -> FloatArray:
        """[K, 4]: 1, n, d, n d."""
        return np.stack([np.ones_like(self.n), self.n, self.d, self.n * self.d], axis=1)


def shares(rows: Rows, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The shares [R, K] of the three terms, and the log residuals [R, K], of theta [R, 5]."""
    first = np.exp(np.clip(theta[:, A, None] - theta[:, ALPHA, None] * rows.n, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    second = np.exp(np.clip(theta[:, B, None] - theta[:, BETA, None] * rows.d, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    floor = np.exp(np.clip(theta[:, FLOOR, None], -LARGEST_EXPONENT, LARGEST_EXPONENT))
    total = first + second + floor
    return first / total, second / total, floor / total, np.log(total) - rows.y


def losses(rows: Rows, theta: FloatArray, counts: FloatArray, delta: float = DELTA) -> FloatArray:
    """The sum of Huber losses [R] of theta [R, 5] under counts [R, K]."""
    return _huber(shares(rows, theta)[3], counts, delta)


def _huber(residual: FloatArray, counts: FloatArray, delta: float) -> FloatArray:
    psi = np.clip(residual, -delta, delta)
    return np.einsum("rk,rk->r", counts, psi * (residual - psi / 2))


def derivatives(
    rows: Rows, theta: FloatArray, counts: FloatArray, delta: float = DELTA
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Loss [R], gradient [R, 5] and Hessian [R, 5, 5]."""
    pa, pb, pe, residual = shares(rows, theta)
    psi = np.clip(residual, -delta, delta)
    pull = counts * psi
    curve = counts * (psi == residual) - pull
    ga, gb, ge = pull * pa, pull * pb, pull * pe
    in_n, in_d, mixed = rows.squares_n, rows.squares_d, rows.mixed
    sa, sb = ga @ in_n, gb @ in_d
    gradient = np.stack([sa[:, 0], -sa[:, 1], sb[:, 0], -sb[:, 1], ge.sum(axis=1)], axis=1)
    qa = curve * pa
    aa, ab, ae = (qa * pa) @ in_n + sa, (qa * pb) @ mixed, (qa * pe) @ in_n[:, :2]
    qb = curve * pb
    bb, be = (qb * pb) @ in_d + sb, (qb * pe) @ in_d[:, :2]
    ee = np.einsum("rk,rk->r", curve * pe, pe) + ge.sum(axis=1)
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
    parts = [
        _minimise(rows, starts[first : first + CHUNK], counts[first : first + CHUNK], delta)
        for first in range(0, len(starts), CHUNK)
    ]
    return np.concatenate([theta for theta, _ in parts]), np.concatenate([loss for _, loss in parts])


def _minimise(rows: Rows, starts: FloatArray, counts: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
    theta, active = starts.copy(), np.arange(len(starts))
    damping = np.full(len(starts), 1e-3)
    loss, gradient, hessian = derivatives(rows, theta, counts, delta)
    for _ in range(STEPS):
        step, fall = _step(gradient[active], hessian[active], damping[active])
        going = fall > FALL
        active, step = active[going], step[going]
        if not len(active):
            break
        tried = theta[active] + step
        found = derivatives(rows, tried, counts[active], delta)
        better = found[0] <= loss[active]
        moved = active[better]
        theta[moved] = tried[better]
        loss[moved], gradient[moved], hessian[moved] = (each[better] for each in found)
        damping[active] = np.where(better, damping[active] / 10, damping[active] * 30).clip(1e-12, 1e12)
    return theta, loss


def _step(gradient: FloatArray, hessian: FloatArray, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The step [R, 5] and by how much the quadratic model falls [R]."""
    diagonal = np.abs(np.einsum("rii->ri", hessian))
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    values, vectors = np.linalg.eigh(hessian * scale[:, :, None] * scale[:, None, :])
    along = np.einsum("rij,ri->rj", vectors, gradient * scale)
    sizes = np.abs(values) + damping[:, None] + 1e-14
    step = -np.einsum("rij,rj->ri", vectors, along / sizes) * scale
    return np.clip(step, -3, 3), 0.5 * np.einsum("rj,rj->r", along / sizes, along)
