"""Gaussian mixtures of low rank: data whose ideal velocity is a formula, and whose consistency function is an ODE.

Component k is N(m_k, s^2 I + Q_k diag(e_k) Q_k^T) with orthonormal Q_k. At time t of TrigFlow it is
N(cos t m_k, a I + cos^2 t Q_k diag(e_k) Q_k^T) with a = cos^2 t s^2 + sin^2 t sigma_data^2: its velocity is a multiple
of x - cos t m_k along each direction of Q_k, and another across them. Everything is computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.network import SIGMA_DATA

MIXTURE_SHAPE = (4, 8, 8)  # of the latents of `known_mixture`
TOLERANCE = 1e-11  # of one step of the solver: it leaves 3e-11 in the end
VARIANCE = SIGMA_DATA**2


@dataclass(frozen=True)
class Mixture:
    """Components: weights [K], means [K, D], bases [K, D, R] with orthonormal columns, energies [K, R], noise s.

    Point masses have energies and noise 0. All float64.
    """

    weights: Tensor
    means: Tensor
    bases: Tensor
    energies: Tensor
    noise: float

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The PF-ODE's dx/dt = E[cos t z - sin t x0 | x_t = x] at x [B, D], t [B] in (0, pi/2): [B, D]."""
        cos, sin = t.cos()[:, None], t.sin()[:, None]
        a = (cos * self.noise) ** 2 + sin**2 * VARIANCE
        inside = a[:, :, None] + cos[:, :, None] ** 2 * self.energies  # variances along Q_k, [B, K, R]
        along = (x @ self._directions).unflatten(1, self.energies.shape) - cos[:, :, None] * self._means_along
        posterior = self._posterior(x, cos, a, inside, along)
        outer = cos * sin * (VARIANCE - self.noise**2) / a
        inner = (cos * sin)[:, :, None] * (VARIANCE - self.noise**2 - self.energies) / inside
        seen = posterior[:, :, None] * (inner - outer[:, :, None]) * along
        mean = posterior @ self.means
        return outer * x - (sin + outer * cos) * mean + seen.flatten(1) @ self._directions.T

    def _posterior(self, x: Tensor, cos: Tensor, a: Tensor, inside: Tensor, along: Tensor) -> Tensor:
        """The probability of each component given x_t = x, [B, K]."""
        squares = x.square().sum(1, keepdim=True) - 2 * cos * (x @ self.means.T) + cos**2 * self._means_squared
        shares = 1 - a[:, :, None] / inside
        exponents = (squares - (shares * along.square()).sum(2)) / a
        log_determinants = (inside / a[:, :, None]).log().sum(2)
        return torch.softmax(self.weights.log() - 0.5 * (exponents + log_determinants), 1)

    # Once: a solver asks for hundreds of velocities.
    @cached_property
    def _directions(self) -> Tensor:
        """All Q_k side by side, [D, K * R]."""
        return self.bases.permute(1, 0, 2).flatten(1)

    @cached_property
    def _means_along(self) -> Tensor:
        return torch.einsum("kd,kdr->kr", self.means, self.bases)

    @cached_property
    def _means_squared(self) -> Tensor:
        return self.means.square().sum(1)

    def flow(self, x: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """Where the PF-ODE takes x [B, D] from times t [B] to times `to` [B]: the consistency function for `to` = 0.

        Solved to 1e-8. RuntimeError where the solver gives up.
        """
        from scipy.integrate import solve_ivp  # only who asks for the truth needs it

        start, span = t.double(), to.double() - t.double()

        def slope(share: float, flat: Any) -> Any:
            at = torch.from_numpy(flat).reshape(x.shape)
            return (span[:, None] * self.velocity(at, start + share * span)).numpy().ravel()

        flat = x.double().numpy().ravel()
        found = solve_ivp(slope, (0.0, 1.0), flat, method="DOP853", rtol=TOLERANCE, atol=TOLERANCE, t_eval=(1.0,))
        if not found.success:
            raise RuntimeError(f"the PF-ODE of the mixture could not be solved: {found.message}")
        return torch.from_numpy(found.y[:, -1].copy()).reshape(x.shape)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples x0 [count, D]."""
        kind = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        inner = torch.randn(count, self.energies.shape[1], generator=generator, dtype=torch.float64)
        outer = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        x0 = self.means[kind] + self.noise * outer
        for k, (basis, energy) in enumerate(zip(self.bases, self.energies, strict=True)):
            x0[kind == k] += (energy.sqrt() * inner[kind == k]) @ basis.T
        return x0


def known_mixture() -> Mixture:
    """The mixture that a study with data.source mixture is trained on, always the same."""
    return image_mixture(0)


def image_mixture(
    seed: int, shape: tuple[int, int, int] = MIXTURE_SHAPE, components: int = 8, rank: int = 8, noise_share: float = 0.1
) -> Mixture:
    """A mixture over latents of `shape` [C, H, W] whose means and directions are smooth, of variance SIGMA_DATA^2.

    Of its variance `noise_share` is white, and the means and the directions have half each of the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.5
    weights /= weights.sum()
    means = _smooth(components, shape, generator)
    means -= weights @ means
    energy = VARIANCE * math.prod(shape)
    share = (1 - noise_share) / 2
    means *= math.sqrt(share * energy / float(weights @ means.square().sum(1)))
    bases = torch.linalg.qr(_smooth(components * rank, shape, generator).reshape(components, rank, -1).mT).Q
    energies = 0.8 ** torch.arange(rank, dtype=torch.float64).repeat(components, 1)
    energies *= share * energy / energies.sum(1, keepdim=True)
    return Mixture(weights, means, bases, energies, math.sqrt(noise_share * VARIANCE))


def _smooth(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Random fields [count, C * H * W] of low spatial frequency: cosines whose amplitude falls with the frequency."""
    channels, height, width = shape
    waves = [(torch.arange(n, dtype=torch.float64) + 0.5) * math.pi / n for n in (height, width)]
    u, v = (torch.cos(torch.outer(torch.arange(4, dtype=torch.float64), wave)) for wave in waves)
    falling = 1 / (1 + torch.arange(4.0, dtype=torch.float64)[:, None] + torch.arange(4.0, dtype=torch.float64))
    amplitudes = falling * torch.randn(count, channels, 4, 4, generator=generator, dtype=torch.float64)
    return torch.einsum("ncij,ih,jw->nchw", amplitudes, u, v).flatten(1)
