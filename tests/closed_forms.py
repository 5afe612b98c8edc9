"""Data whose diffusion is known in closed form, and stand-ins for a network that computes a known function.

Of a flow from x_t to x_s the network's F is (cos(t - s) x_t - x_s) / (sd sin(t - s)), and v / sd where t = s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.dual import Dual
from models.trigflow import SIGMA_DATA

F = Callable[[Tensor, Tensor], Tensor]  # at (x / sd, t): [B, ...], [B] -> [B, ...]


def spread(t: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...]."""
    return t.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Gaussian:
    """N(mu, s^2 I): at time t it is N(cos t mu, V(t) I) with V = cos^2 t s^2 + sin^2 t sd^2."""

    s: float
    mu: float = 0.0

    def variance(self, t: Tensor) -> Tensor:
        return t.cos() ** 2 * self.s**2 + t.sin() ** 2 * SIGMA_DATA**2

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """-sin t mu + V'/(2V) (x - cos t mu)."""
        t = spread(t, x)
        slope = t.cos() * t.sin() * (SIGMA_DATA**2 - self.s**2) / self.variance(t)
        return -t.sin() * self.mu + slope * (x - t.cos() * self.mu)

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """cos s mu + sqrt(V(s) / V(t)) (x - cos t mu); for s = 0 the consistency function."""
        t, s = spread(t, x), spread(s, x)
        return s.cos() * self.mu + (self.variance(s) / self.variance(t)).sqrt() * (x - t.cos() * self.mu)

    def teacher(self) -> F:
        """The ideal F of a diffusion model."""
        return lambda x, t: self.velocity(SIGMA_DATA * x, t) / SIGMA_DATA

    def student(self) -> F:
        """The ideal F of a consistency model."""
        return of_flow(self.flow)


def of_flow(flow: Callable[[Tensor, Tensor, Tensor], Tensor], to: Callable[[Tensor], Tensor] | None = None) -> F:
    """The F whose f(x_t, t, to(t)) is that flow; to: 0 unless given."""

    def f(x: Tensor, t: Tensor) -> Tensor:
        end = torch.zeros_like(t) if to is None else to(t)
        turn = spread(t - end, x)
        return (turn.cos() * SIGMA_DATA * x - flow(SIGMA_DATA * x, t, end)) / (SIGMA_DATA * turn.sin())

    return f


@dataclass(frozen=True)
class Line:
    """A mixture of normal distributions on a line, weights, means, deviations [K]: its flow keeps quantiles."""

    weights: Tensor
    means: Tensor
    deviations: Tensor

    def tail(self, x: Tensor, t: Tensor, sign: float) -> Tensor:
        """P(X_t < x) for sign 1, P(X_t > x) for sign -1: [B], [B] -> [B]."""
        deviation = (t.cos()[:, None] ** 2 * self.deviations**2 + t.sin()[:, None] ** 2 * SIGMA_DATA**2).sqrt()
        z = (x[:, None] - t.cos()[:, None] * self.means) / deviation
        return torch.special.ndtr(sign * z) @ self.weights

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The x_s of the same quantile, by bisection of whichever tail is the smaller: [B, 1] -> [B, 1]."""
        at = x.flatten()
        sign = torch.where(self.tail(at, t, 1) < 0.5, 1.0, -1.0).double()
        below, above = self.tail(at, t, 1), self.tail(at, t, -1)
        share = torch.where(sign > 0, below, above)
        low, high = at.new_full(at.shape, -50.0), at.new_full(at.shape, 50.0)
        for _ in range(70):
            middle = (low + high) / 2
            found = torch.where(sign > 0, self.tail(middle, s, 1), self.tail(middle, s, -1))
            right = (found < share) == (sign > 0)
            low, high = torch.where(right, middle, low), torch.where(right, high, middle)
        return ((low + high) / 2).reshape(x.shape)


class Known(nn.Module):
    """A stand-in for the network with a known F and w = 0; `shift` is a parameter added to F."""

    def __init__(self, f: F) -> None:
        super().__init__()
        self.f = f
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, labels, *, guidance=None, drop=None, with_weight: bool = False, **_):
        if isinstance(x, Dual):
            value, tangent, *_ = torch.func.jvp(self.f, (x.value, t.value), (x.tangent, t.tangent))
            return Dual(value + self.shift, tangent.detach()), torch.zeros_like(t.value)
        f = self.f(x, t) + self.shift
        return (f, torch.zeros_like(t)) if with_weight else f
