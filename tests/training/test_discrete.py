"""Discrete-time controls, and the ways to the tangent: what they compare, and how fast they tend to Algorithm 1."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models.network import SIGMA_DATA, T_MAX
from models.trigflow import edm_times
from scaling.config.recipes import ConsistencyRecipe
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.consistency import Distillation, Training, consistency_loss
from scaling.methods.discrete import LEAST_TIME, discrete_loss, nearer, neighbours
from scaling.methods.tangent import Derivative, Tangent
from tests.closed_forms import Gaussian, Known
from tests.models.networks import CONFIG, network

DATA = Gaussian(0.3, mu=0.4)


def recipe(**changes: Any) -> ConsistencyRecipe:
    return ConsistencyRecipe.model_validate({"steps": 100, "lr": 0.01, "warmup_steps": 0, **changes})


def batch(count: int = 64, channels: int = 1, size: int = 2, low: float = -math.inf) -> Batch:
    """Gaussian data at times of the proposal, none below `low`."""
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, count, channels, size, size, generator=generator, dtype=torch.float64)
    t = draw_time(torch.randn(count, generator=generator, dtype=torch.float64), -0.8, 1.6).clamp(min=low)
    return Batch(DATA.mu + DATA.s * x0, draw_noise(z), t, torch.full((count,), -1))


def wrong(x: Tensor, t: Tensor) -> Tensor:
    """An F that is no consistency model's."""
    return torch.sin(2 * x) * (t[:, None, None, None] + 0.2) ** 2


def orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


def shift_gradient(loss: Tensor, net: Known) -> float:
    (gradient,) = torch.autograd.grad(loss, net.shift)
    return gradient.item()


def test_the_discrete_gradient_tends_to_the_continuous_one_at_slope_one() -> None:
    b, net = batch(low=0.2), Known(wrong)
    dxdt = DATA.velocity(b.x_t, b.t)
    continuous = consistency_loss(net, b, dxdt, 1.0, Tangent("raw"), adaptive=False)  # type: ignore[arg-type]
    want, length = shift_gradient(continuous.loss, net), continuous.log["tangent_norm"].item()
    gradients, lengths = [], []
    for h in (0.02, 0.01, 0.005, 0.0025):
        found = discrete_loss(net, b, dxdt, b.t - h, adaptive=False)  # type: ignore[arg-type]
        gradients.append(abs(shift_gradient(found.loss, net) - want))
        lengths.append(abs(found.log["tangent_norm"].item() - length))
    assert orders(gradients) == pytest.approx([1, 1, 1], abs=0.1)
    assert orders(lengths) == pytest.approx([1, 1, 1], abs=0.1)
    assert gradients[-1] < 0.01 * abs(want)


def test_a_step_along_the_velocity_of_the_data_stays_on_their_arc() -> None:
    """Consistency training compares x_t and x_s of one x0 and z: with an F of zero f(x, t) = cos t x."""
    b = batch()
    before = b.t / 3
    dxdt = Training(recipe()).dxdt(b)
    found = discrete_loss(Known(lambda x, t: 0 * x), b, dxdt, before, adaptive=False)  # type: ignore[arg-type]
    cos, sin = (fn(before)[:, None, None, None] for fn in (torch.cos, torch.sin))
    x_s = cos * b.x0 + sin * b.z
    error = (b.t.cos()[:, None, None, None] * b.x_t - cos * x_s).square().flatten(1).mean(1)
    torch.testing.assert_close(found.loss, (error / (SIGMA_DATA * b.t.tan() * (b.t - before))).mean())


def test_distillation_steps_along_its_teacher() -> None:
    """At the exact student of an exact teacher N = 4096 steps leave a thousandth of what an untrained one has."""
    b, method = batch(256), Distillation(recipe(discrete_steps=4096, adaptive_weighting=False), Known(DATA.teacher()))  # type: ignore[arg-type]
    exact = method.loss(Known(DATA.student()), b, 1).loss  # type: ignore[arg-type]
    untrained = method.loss(Known(lambda x, t: 0 * x), b, 1).loss  # type: ignore[arg-type]
    assert 0 < exact < untrained / 1000


@pytest.mark.parametrize("steps", [2, 256, 4096])
def test_neighbours_are_two_of_edms_noise_levels_about_t(steps: int) -> None:
    grid = edm_times(steps)
    t = torch.cat([batch(500).t, torch.tensor([1e-4, LEAST_TIME, T_MAX, 1.57], dtype=torch.float64)])
    later, before = neighbours(t, recipe(discrete_steps=steps), 1)
    places = [int((grid == each).nonzero()) for each in later]
    assert torch.equal(grid[[place + 1 for place in places]], before)
    inside = t <= later.max()
    assert (later[inside] >= t[inside]).all()
    assert (before < t).all()
    single = neighbours(t.float(), recipe(discrete_steps=steps), 1)
    assert (single[0] > single[1]).all()


def test_ect_halves_the_distance() -> None:
    """r = sigma (1 - n(sigma) / 2^(k + 1)), at first all the way to 0 near the data."""
    t = torch.tensor([0.01, 0.8, 1.4, 1.56], dtype=torch.float64)
    sigma = SIGMA_DATA * t.tan()
    for doublings in (0, 3, 6):
        share = (1 + 8 / (1 + sigma.exp())) / 2 ** (doublings + 1)
        want = (sigma * (1 - share)).clamp(min=0)
        torch.testing.assert_close(SIGMA_DATA * nearer(t, doublings).tan(), want)
    assert nearer(t, 0)[0] == 0
    schedule = recipe(discrete_double_every=10)
    at = {step: neighbours(t, schedule, step)[1] for step in (1, 10, 11, 100)}
    assert torch.equal(at[1], at[10])
    assert torch.equal(at[11], nearer(t, 1))
    assert torch.equal(at[100], nearer(t, 9))
    near = torch.linspace(1e-6, 1.5707, 1000)
    assert (nearer(near, 11) < near).all()


@pytest.mark.parametrize(("kind", "order"), [("central", 2), ("backward", 1)])
def test_differences_tend_to_the_derivative(kind: Any, order: int) -> None:
    net, b = network(), batch(6, 4, 8, low=0.3)
    assert (b.t < 1.5).all()
    dxdt, factor = Training(recipe()).dxdt(b), (b.t.cos() * b.t.sin())[:, None, None, None]
    f, w, exact = Derivative().of(net, b, dxdt, factor)
    errors = []
    for h in (0.02, 0.01, 0.005):
        value, weight, slope = Derivative(kind, h).of(net, b, dxdt, factor)
        errors.append(((slope - exact).norm() / exact.norm()).item())
        assert not slope.requires_grad
    torch.testing.assert_close((value, weight), (f, w))
    assert orders(errors) == pytest.approx([order, order], abs=0.2)


def test_the_rearrangement_changes_no_derivative() -> None:
    net, b = network(), batch(6, 4, 8)
    dxdt, factor = Training(recipe()).dxdt(b), (b.t.cos() * b.t.sin())[:, None, None, None]
    want, got = (Derivative(kind).of(net, b, dxdt, factor)[2] for kind in ("rearranged", "plain"))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_without_adaptive_weighting_w_has_a_gradient_of_zero() -> None:
    net, b = network(), batch(6, 4, 8)
    for changes in ({}, {"discrete_steps": 64}):
        for parameter in net.parameters():
            parameter.grad = None
        Training(recipe(adaptive_weighting=False, **changes)).loss(net, b, 1).loss.backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        assert not gradients["logvar_linear.weight"].any()  # type: ignore[union-attr]
        assert gradients["unet.out_conv.weight"].any()  # type: ignore[union-attr]


def test_what_a_recipe_switches_is_what_is_computed() -> None:
    """Each key changes the loss of one batch."""
    net, b = network(), batch(6, 4, 8)
    keys = ({}, {"tangent": "raw"}, {"tangent": "clip"}, {"warmup_steps": 10}, {"adaptive_weighting": False})
    keys += ({"derivative": "central"}, {"derivative": "backward"}, {"discrete_steps": 64})
    keys += ({"discrete_steps": 128}, {"discrete_double_every": 10}, {"tangent_norm": "rms"})
    losses = [Training(recipe(**each)).loss(net, b, 1).loss.item() for each in keys]
    assert len({round(loss, 9) for loss in losses}) == len(keys)
    assert CONFIG.num_classes
