"""The mixture against its special cases: one Gaussian, a line whose flow keeps quantiles, point masses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.network import SIGMA_DATA
from scaling.evaluation.mixture import Mixture, image_mixture
from tests.closed_forms import Gaussian, Line


def mixture_of(line: Line) -> Mixture:
    """The same as a mixture of D = 1 with directions of rank 1."""
    least = line.deviations.min().item()
    energies = line.deviations**2 - least**2
    k = len(line.weights)
    return Mixture(
        line.weights, line.means[:, None], torch.ones(k, 1, 1, dtype=torch.float64), energies[:, None], least
    )


def times(count: int, low: float = 0.01, high: float = 1.56) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)


def test_one_component_is_the_gaussian() -> None:
    gaussian = Gaussian(0.3, mu=0.7)
    one = torch.ones(1, dtype=torch.float64)
    bases = torch.zeros(1, 3, 1, dtype=torch.float64)
    bases[0, 0] = 1
    made = Mixture(one, torch.full((1, 3), 0.7, dtype=torch.float64), bases, one[:, None] * 0, 0.3)
    t = times(40)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(made.velocity(x, t), gaussian.velocity(x, t), rtol=1e-12, atol=1e-13)
    want = gaussian.flow(x, t, torch.zeros_like(t))
    assert (made.flow(x, t, torch.zeros_like(t)) - want).abs().max() < 1e-8


def test_a_line_keeps_its_quantiles() -> None:
    line = Line(*torch.tensor([[0.3, 0.5, 0.2], [-1.0, 0.1, 0.8], [0.1, 0.2, 0.15]], dtype=torch.float64))
    made, t = mixture_of(line), times(60)
    x = (0.8 * torch.randn(60, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).clamp(-1.5, 1.5)
    for to in (torch.zeros_like(t), t / 2):
        assert (made.flow(x, t, to) - line.flow(x, t, to)).abs().max() < 1e-8


def test_point_masses_pull_to_their_posterior_mean() -> None:
    """For points p_k: E[x0 | x] = sum_k softmax(log w_k - |x - cos p_k|^2 / (2 sin^2 sd^2)) p_k."""
    points = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).double()
    made = Mixture(weights, points, torch.zeros(5, 4, 1).double(), torch.zeros(5, 1).double(), 0.0)
    t = times(30, low=0.05)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    distance = (x[:, None] - cos[:, :, None] * points).square().sum(2)
    x0 = torch.softmax(weights.log() - distance / (2 * sin**2 * SIGMA_DATA**2), 1) @ points
    z = (x - cos * x0) / sin
    torch.testing.assert_close(made.velocity(x, t), cos * z - sin * x0, rtol=1e-9, atol=1e-9)


def test_the_mixture_of_the_truth_study() -> None:
    """Its variance is that of all data, its flow is solved to 1e-8, and its velocity is the mean of v_t given x_t."""
    made = image_mixture(0)
    generator = torch.Generator().manual_seed(4)
    x0 = made.draw(5_000, generator)
    assert x0.square().mean().item() == pytest.approx(SIGMA_DATA**2, rel=0.04)
    assert x0.mean(0).abs().max() < 0.06
    z = SIGMA_DATA * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    t = torch.full((len(x0),), 0.6, dtype=torch.float64)
    x, v = math.cos(0.6) * x0 + math.sin(0.6) * z, math.cos(0.6) * z - math.sin(0.6) * x0
    ideal = made.velocity(x, t)
    # The residual has mean zero given x: it is orthogonal to whatever is a function of x.
    residual = v - ideal
    for probe in (x, ideal):
        assert (residual * probe).mean().abs() < 4 * (residual * probe).std() / math.sqrt(probe.numel())
    few, at, zero = x[:4], t[:4], torch.zeros(4, dtype=torch.float64)
    whole = made.flow(few, at, zero)
    halves = made.flow(made.flow(few, at, at / 2), at / 2, zero)
    assert (whole - halves).abs().max() < 1e-8
    assert torch.equal(image_mixture(0).means, made.means)
    assert not torch.equal(image_mixture(1).means, made.means)
