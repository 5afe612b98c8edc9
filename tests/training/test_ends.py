"""Multistep consistency models and flow maps: where they lead, their exact solutions, and the second time input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dual import Dual
from models.network import SIGMA_DATA, T_MAX
from models.shape import count_parameters, state_shapes
from scaling.config.recipes import ConsistencyRecipe
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.consistency import Distillation, Training, consistency_loss
from scaling.methods.ends import drawn_end, ends_of, flow_times, segment_end, segment_times
from scaling.methods.tangent import Tangent
from scaling.sampling.samplers import sample_walk
from tests.closed_forms import Gaussian, Known, of_flow
from tests.models.networks import network

DATA = Gaussian(0.3, mu=0.4)


def recipe(**changes: Any) -> ConsistencyRecipe:
    return ConsistencyRecipe.model_validate({"steps": 100, "lr": 0.01, "warmup_steps": 0, "tangent": "raw", **changes})


def batch(count: int = 64, **changes: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, count, 1, 2, 2, generator=generator, dtype=torch.float64)
    t = draw_time(torch.randn(count, generator=generator, dtype=torch.float64), -0.4, 1.6)
    return Batch(DATA.mu + DATA.s * x0, draw_noise(z), t, torch.full((count,), -1), **changes)


@pytest.mark.parametrize("segments", [2, 3, 16])
def test_each_time_leads_to_the_end_of_its_segment(segments: int) -> None:
    width = T_MAX / segments
    t = torch.linspace(0.001, 1.57, 999)
    end = segment_end(t, segments)
    assert ((t > end) & ((t <= end + 1.0001 * width) | (t > T_MAX))).all()
    assert len(end.unique()) == segments
    times = segment_times(segments)
    assert times[0].item() == pytest.approx(T_MAX)
    # Sampling begins each step at the top of a segment, and the network must know it as that.
    torch.testing.assert_close(segment_end(times[:-1].float(), segments).double(), times[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["segments", "flow_map", "discrete"])
def test_at_the_ideal_network_the_tangent_of_distillation_vanishes(kind: str) -> None:
    b = batch(128)
    if kind == "flow_map":
        b = batch(128, to=b.t * torch.linspace(0.05, 0.95, 128, dtype=torch.float64))
    changes = {"segments": {"segments": 3}, "flow_map": {"flow_map": True}}
    chosen = recipe(**changes.get(kind, {"segments": 3, "discrete_steps": 4096}))
    end = b.to if b.to is not None else None
    ideal = of_flow(DATA.flow, lambda t: end if end is not None else segment_end(t, 3))
    found = Distillation(chosen, Known(DATA.teacher())).loss(Known(ideal), b, 1)  # type: ignore[arg-type]
    # An Euler step of discrete time leaves an error of the order of its length.
    assert found.log["tangent_norm"].item() < (0.02 if kind == "discrete" else 1e-10)
    wrong = Distillation(chosen, Known(DATA.teacher())).loss(Known(DATA.student()), b, 1)  # type: ignore[arg-type]
    assert wrong.log["tangent_norm"].item() > 0.1


def test_where_a_flow_map_stays_it_learns_the_velocity() -> None:
    """At s = t the gradient is that of || F - v / sd ||^2 but for the factor sd of g."""
    b = batch()
    b = batch(to=b.t)
    net = Known(lambda x, t: 0.3 * x)
    loss = Training(recipe(flow_map=True, adaptive_weighting=False)).loss(net, b, 1).loss  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss, net.shift)
    v = Training(recipe()).dxdt(b)
    want = -2 * (v - SIGMA_DATA * 0.3 * b.x_t / SIGMA_DATA).mean()
    torch.testing.assert_close(gradient, want)


def test_a_flow_map_is_told_any_time_before_or_its_own() -> None:
    t = torch.full((10_000,), 1.2)
    same, place = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(0))
    to = drawn_end(t, same, place, 0.5)
    assert (to == t).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (to <= t).all()
    assert to[to < t].mean().item() == pytest.approx(0.6, abs=0.02)
    moved = Batch(t[:, None, None, None], t[:, None, None, None], t - 0.5, same.long(), to=to)
    ends = ends_of(moved, recipe(flow_map=True))
    assert ends is not None
    assert (ends <= moved.t).all()


@pytest.mark.parametrize("times", [segment_times(4), flow_times(2, 1.1), flow_times(1, 1.1)])
def test_exact_networks_are_sampled_exactly(times: Tensor) -> None:
    noise = SIGMA_DATA * torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.full((6,), T_MAX, dtype=torch.float64)

    def exact(x: Tensor, t: Tensor, to: Tensor) -> Tensor:
        return of_flow(DATA.flow, lambda _: to)(x, t)

    got = sample_walk(exact, noise, times)
    torch.testing.assert_close(got, DATA.flow(noise, start, 0 * start), rtol=1e-10, atol=1e-12)


def test_the_second_time_is_an_input_that_begins_without_effect() -> None:
    told, plain = network(second_time=True), network()
    shared = {name: tensor for name, tensor in told.state_dict().items() if "emb_to" not in name}
    plain.load_state_dict(shared)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, labels = torch.tensor([0.3, 0.9, 1.5], dtype=torch.float64), torch.tensor([0, 3, -1])
    with torch.no_grad():
        apart = told(x, t, labels, to=t / 2)
        assert not torch.allclose(apart, told(x, t, labels, to=t / 3))
        told.unet.emb_to_gain.zero_()
        assert torch.equal(told(x, t, labels, to=t / 2), plain(x, t, labels))
    with pytest.raises(ValueError, match="to: missing for a network that takes a time to lead to"):
        told(x, t, labels)
    with pytest.raises(ValueError, match="to: given to a network that takes no time"):
        plain(x, t, labels, to=t)
    assert {name: tuple(p.shape) for name, p in told.state_dict().items()} == state_shapes(told.config)
    assert [*told.state_dict()] == [*state_shapes(told.config)]
    assert sum(p.numel() for p in told.parameters()) == count_parameters(told.config)
    assert "second_time" not in plain.config.describe()


def test_its_derivative_is_at_a_fixed_second_time() -> None:
    net = network(second_time=True)
    generator = torch.Generator().manual_seed(0)
    x, dx = torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64)
    t, labels = torch.tensor([0.3, 0.9, 1.5], dtype=torch.float64), torch.tensor([0, 3, -1])
    f, _ = net(Dual(x, dx), Dual(t, torch.ones_like(t)), labels, to=t / 2, with_weight=True)
    to = t / 2
    value, tangent, *_ = torch.func.jvp(lambda x, t: net(x, t, labels, to=to), (x, t), (dx, torch.ones_like(t)))
    torch.testing.assert_close((f.value, f.tangent), (value, tangent))
    losses = consistency_loss(net, Batch(x, dx, t, labels, to=to), dx, 1.0, Tangent(), end=to)
    losses.loss.backward()
    assert net.unet.emb_to_gain.grad is not None
    assert net.unet.emb_to_gain.grad.any()
