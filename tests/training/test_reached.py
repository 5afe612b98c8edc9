"""A small network trained with each objective reaches what is known in closed form: on a line, to a stated error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.dual import Dual
from models.trigflow import SIGMA_DATA, denoise
from scaling.config.recipes import ConsistencyRecipe
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.consistency import Distillation, Training
from scaling.methods.ends import drawn_end, ends_of
from scaling.methods.teacher import Diffusion
from tests.closed_forms import Known, Line

LINE = Line(*torch.tensor([[0.4, 0.6], [-0.6, 0.4], [0.25, 0.15]], dtype=torch.float64))
STEPS, BATCH = 500, 256


class Small(nn.Module):
    """F of a number, a time and a second time, from 48 features; w(t) is linear in the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))
        self.weight = nn.Linear(1, 1)

    def f(self, x: Tensor, t: Tensor, to: Tensor) -> Tensor:
        told = torch.stack([x.flatten(), t, t.cos(), to], 1)
        return self.layers(told).reshape(x.shape)

    def forward(self, x: Any, t: Any, labels: Tensor, *, to: Tensor | None = None, with_weight: bool = False, **_: Any):
        time = t.value if isinstance(t, Dual) else t
        end = torch.zeros_like(time) if to is None else to
        w = self.weight(time[:, None]).flatten()
        if isinstance(x, Dual):
            assert isinstance(t, Dual)
            pair = torch.func.jvp(lambda x, t: self.f(x, t, end), (x.value, t.value), (x.tangent, t.tangent))
            return Dual(pair[0], pair[1].detach()), w
        f = self.f(x, time, end)
        return (f, w) if with_weight else f


def batch(step: int, *, flow_map: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(step)
    kind = torch.multinomial(LINE.weights, BATCH, replacement=True, generator=generator)
    noise, z = torch.randn(2, BATCH, generator=generator)
    x0 = (LINE.means[kind] + LINE.deviations[kind] * noise).float()
    t = draw_time(torch.randn(BATCH, generator=generator), -0.8, 1.4).clamp(max=1.56)
    same, place = torch.rand(2, BATCH, generator=generator)
    to = drawn_end(t, same, place, 0.5) if flow_map else None
    shape = (BATCH, 1, 1, 1)
    return Batch(x0.reshape(shape), draw_noise(z).reshape(shape), t, torch.full((BATCH,), -1), to=to)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The ideal F of a teacher on the line."""
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    variance = cos**2 * LINE.deviations.float() ** 2 + sin**2 * SIGMA_DATA**2
    y = SIGMA_DATA * x.flatten()[:, None] - cos * LINE.means.float()
    posterior = torch.softmax(LINE.weights.float().log() - 0.5 * (y**2 / variance + variance.log()), 1)
    slope = cos * sin * (SIGMA_DATA**2 - LINE.deviations.float() ** 2) / variance
    return ((posterior * (slope * y - sin * LINE.means.float())).sum(1) / SIGMA_DATA).reshape(x.shape)


def trained(method: Any, *, flow_map: bool = False, steps: int = STEPS) -> Small:
    net = Small()
    adam = torch.optim.Adam(net.parameters(), 0.01, betas=(0.9, 0.99))
    for step in range(1, steps + 1):
        adam.param_groups[0]["lr"] = 0.01 * min(1.0, 3 * (1 - step / (steps + 1)))
        loss = method.loss(net, batch(step, flow_map=flow_map), step).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net


@torch.no_grad()
def error(net: Small, recipe: ConsistencyRecipe) -> float:
    """Root mean square of f(x_t, t, s) - x_s over its deviation, against the quantile map."""
    b = batch(10**6, flow_map=recipe.flow_map)
    ends = ends_of(b, recipe)
    end = torch.zeros_like(b.t) if ends is None else ends
    f = denoise(b.x_t, net(b.x_t / SIGMA_DATA, b.t, b.labels, to=b.to), b.t - end)
    want = LINE.flow(b.x_t.flatten()[:, None].double(), b.t.double(), end.double()).flatten()
    return ((f.flatten() - want).square().mean().sqrt() / want.std()).item()


# Whether it is distilled, what its recipe changes, and the error that it must reach.
OBJECTIVES: dict[str, tuple[bool, dict[str, Any], float]] = {
    "scd": (True, {}, 0.2),
    "sct": (False, {}, 0.2),
    "scd, raw": (True, {"tangent": "raw"}, 0.15),
    "scd, clipped": (True, {"tangent": "clip"}, 0.15),
    "scd, central": (True, {"derivative": "central"}, 0.2),
    "cd": (True, {"discrete_steps": 256}, 0.2),
    "ct": (False, {"discrete_steps": 64}, 0.2),
    "ect": (False, {"discrete_double_every": 100}, 0.2),
    "multistep": (True, {"segments": 2}, 0.1),
    "meanflow": (False, {"flow_map": True}, 0.12),
    "distilled flow map": (True, {"flow_map": True}, 0.05),
}
BY_DAY = ("scd", "ct", "meanflow")


@pytest.mark.parametrize(
    "name", [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in OBJECTIVES]
)
def test_it_reaches_the_flow_of_the_line(name: str) -> None:
    distilled, changes, bound = OBJECTIVES[name]
    recipe = ConsistencyRecipe.model_validate({"steps": STEPS, "lr": 0.01, "warmup_steps": 100, **changes})
    method = Distillation(recipe, Known(velocity)) if distilled else Training(recipe)  # type: ignore[arg-type]
    untrained, reached = error(Small(), recipe), error(trained(method, flow_map=recipe.flow_map), recipe)
    assert reached < bound < untrained


def test_a_teacher_reaches_the_ideal_velocity() -> None:
    net, b = trained(Diffusion()), batch(10**6)
    with torch.no_grad():
        want = velocity(b.x_t / SIGMA_DATA, b.t)
        off = ((net(b.x_t / SIGMA_DATA, b.t, b.labels) - want).square().mean().sqrt() / want.std()).item()
    assert off < 0.45  # the noise of v_t is much larger than what is to be learned
