"""VSD on Gaussian data, whose scores are known: its gradient, and the generator that it ends with.

Data N(M, S^2 I) and samples N(m, s^2 I) of a generator m + s z / sd have at time t the scores (cos t m - x) / V with
V = cos^2 t s^2 + sin^2 t sd^2. KL(N(a, A) || N(b, B)) in one dimension is (A + (a - b)^2) / 2B - 1/2 + ln(B / A) / 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.dual import Dual
from models.network import SIGMA_DATA, T_MAX, NetworkConfig
from models.trigflow import TrigFlowNet, expand
from scaling.config.methods import PARTS, NetworkName, Pass
from scaling.config.recipes import Method, ScdVsdRecipe, VsdRecipe
from scaling.methods.batch import Batch, Noise, draw_noise, draw_time
from scaling.methods.method import Networks, proposals, turns_of
from scaling.methods.vsd import distillation_loss, fake_loss, score_direction

M, S = 0.4, 0.3  # of the data
RECIPE = {"steps": 100, "lr": 0.01}


def gaussian_f(x: Tensor, t: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """sd F at x = x_t / sd of the diffusion model of N(mean, std^2 I): the velocity of its PF-ODE, over sd."""
    cos, sin = (expand(fn(t), x) for fn in (torch.cos, torch.sin))
    centred = SIGMA_DATA * x - cos * mean
    slope = cos * sin * (SIGMA_DATA**2 - std**2) / (cos**2 * std**2 + sin**2 * SIGMA_DATA**2)
    return (slope * centred - sin * mean) / SIGMA_DATA


class Gaussian(nn.Module):
    """The exact diffusion model of N(mean, std^2 I) with trainable mean and log std, and w = 0."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(math.log(std), dtype=torch.float64))

    def forward(self, x, t, labels, *, guidance=None, drop=None, with_weight: bool = False):
        f = gaussian_f(x, t, self.mean, self.log_std.exp())
        return (f, torch.zeros_like(t)) if with_weight else f


class Generator(nn.Module):
    """The network whose one-step samples from t_max are mean + std z / sd, with trainable mean and std, and w = 0."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))

    def forward(self, x, t, labels, *, guidance=None, drop=None, with_weight: bool = False):
        assert (t == T_MAX).all()
        f = (math.cos(T_MAX) * SIGMA_DATA * x - self.mean - self.std * x) / (math.sin(T_MAX) * SIGMA_DATA)
        return (f, torch.zeros_like(t)) if with_weight else f


def networks(student: nn.Module, fake: nn.Module, teacher: nn.Module | None = None) -> Networks:
    found = {"student": student, "fake": fake, "teacher": teacher or Gaussian(M, S)}
    return cast(Networks, found)


def noise(count: int, shape: tuple[int, ...], generator: torch.Generator, p_mean: float, p_std: float) -> Noise:
    z = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    tau = torch.randn(count, generator=generator, dtype=torch.float64)
    return Noise(draw_noise(z), draw_time(tau, p_mean, p_std))


def batch(count: int = 32, seed: int = 0, shape: tuple[int, ...] = (1, 2, 2)) -> Batch:
    """Noise for the student, and for both losses of its samples with the paper's proposals."""
    generator = torch.Generator().manual_seed(seed)
    own = noise(count, shape, generator, -0.8, 1.6)
    recipe = VsdRecipe.model_validate(RECIPE)
    further = {name: noise(count, shape, generator, *times) for name, times in proposals(recipe).items()}
    return Batch(torch.zeros_like(own.z), own.z, own.t, torch.zeros(count, dtype=torch.int64), further=further)


def score(x: Tensor, t: Tensor, mean: float, std: float) -> Tensor:
    """Of N(mean, std^2 I) noised to time t, at x_t."""
    t = expand(t, x)
    return (t.cos() * mean - x) / (t.cos() ** 2 * std**2 + t.sin() ** 2 * SIGMA_DATA**2)


def test_the_direction_is_the_weighted_difference_of_the_scores() -> None:
    """h = tan t sd^2 (s_teacher - s_fake) / || v_t - sd F_teacher ||, with the scores of the two Gaussians."""
    b = batch()
    noised = b.noised(0.1 + 0.2 * b.z, "vsd")
    h = score_direction(*(cast(TrigFlowNet, Gaussian(*of)) for of in ((0.1, 0.1), (M, S))), noised)  # type: ignore
    t, x = expand(noised.t, noised.x0), noised.x_t
    difference = score(x, noised.t, M, S) - score(x, noised.t, 0.1, 0.1)
    error = t.cos() * noised.z - t.sin() * noised.x0 - SIGMA_DATA * gaussian_f(x / SIGMA_DATA, noised.t, M, S)
    want = t.tan() * SIGMA_DATA**2 * difference / expand(error.flatten(1).norm(dim=1), x)
    torch.testing.assert_close(h, want, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_a_sample_is_the_direction() -> None:
    """d loss / d x = -2 weight h / sd, over the batch: for the generator's mean and std their sum over samples."""
    b, student, fake = batch(), Generator(0.1, 0.2), Gaussian(0.1, 0.2)
    losses = distillation_loss(networks(student, fake), b, weight=3.0)
    losses.loss.backward()
    assert losses.drawn is not None
    assert not losses.drawn.requires_grad
    torch.testing.assert_close(losses.drawn, 0.1 + 0.2 * b.z / SIGMA_DATA, rtol=1e-12, atol=1e-15)
    h = score_direction(cast(TrigFlowNet, fake), cast(TrigFlowNet, Gaussian(M, S)), b.noised(losses.drawn, "vsd"))
    assert student.mean.grad is not None
    assert student.std.grad is not None
    by_sample = -2 * 3.0 * h / SIGMA_DATA / len(h)
    assert student.mean.grad.item() == pytest.approx(by_sample.sum().item(), rel=1e-10)
    assert student.std.grad.item() == pytest.approx((by_sample * b.z / SIGMA_DATA).sum().item(), rel=1e-10)
    assert losses.loss.item() == pytest.approx(3.0 * h.square().flatten(1).sum(1).mean().item(), rel=1e-10)
    assert fake.mean.grad is None


@pytest.mark.parametrize("t", [0.05, 0.8, 1.5])
def test_the_expected_difference_of_scores_is_the_gradient_of_kl(t: float) -> None:
    """By Gauss-Hermite quadrature, exact for what is quadratic in the noise; the weight of each sample is taken off."""
    m, s = 0.1, 0.2
    nodes, shares = np.polynomial.hermite_e.hermegauss(4)
    pairs = torch.tensor(list(product(nodes, nodes)), dtype=torch.float64)
    weights = torch.tensor([a * b for a, b in product(shares, shares)], dtype=torch.float64) / (2 * math.pi)
    z, again = (SIGMA_DATA * pairs[:, n].reshape(-1, 1, 1, 1) for n in (0, 1))
    times = torch.full((len(pairs),), t, dtype=torch.float64)
    b = Batch(z, z, times, torch.zeros(len(pairs), dtype=torch.int64), further={"vsd": Noise(again, times)})
    noised = b.noised(m + s * z / SIGMA_DATA, "vsd")
    h = score_direction(cast(TrigFlowNet, Gaussian(m, s)), cast(TrigFlowNet, Gaussian(M, S)), noised)
    cos, sin = math.cos(t), math.sin(t)
    error = cos * again - sin * noised.x0 - SIGMA_DATA * gaussian_f(noised.x_t / SIGMA_DATA, times, M, S)
    difference = -h * error.abs() / (math.tan(t) * SIGMA_DATA**2)  # s_fake - s_teacher
    found = [(weights * (difference * along).flatten()).sum().item() for along in (cos + 0 * z, cos * z / SIGMA_DATA)]

    mean, std = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (m, s))
    ours, data = (cos**2 * each**2 + sin**2 * SIGMA_DATA**2 for each in (std, torch.tensor(S, dtype=torch.float64)))
    kl = (ours + cos**2 * (mean - M) ** 2) / (2 * data) + (data / ours).log() / 2
    want = [each.item() for each in torch.autograd.grad(kl, (mean, std))]
    assert found == pytest.approx(want, rel=1e-10)


def test_the_right_generator_is_left_alone() -> None:
    """Samples of the data's law with their exact score: the loss and its gradient are zero for every sample."""
    student = Generator(M, S)
    losses = distillation_loss(networks(student, Gaussian(M, S)), batch())
    losses.loss.backward()
    assert losses.loss.item() < 1e-25
    assert student.mean.grad is not None
    assert abs(student.mean.grad.item()) < 1e-12


def test_the_fake_score_learns_the_law_of_the_samples_alone() -> None:
    """Its loss is least where it is the diffusion model of the generator's samples, and no gradient reaches these."""
    b, student = batch(20_000, shape=(1, 1, 1)), Generator(0.1, 0.2)
    drawn = distillation_loss(networks(student, Gaussian(0.0, 0.5)), b).drawn
    errors = {}
    for law in ((0.1, 0.2), (0.1, 0.23), (0.14, 0.2), (M, S)):
        losses = fake_loss(networks(student, Gaussian(*law)), replace(b, drawn=drawn))
        losses.loss.backward()
        errors[law] = losses.log["velocity_error"].item()
    assert min(errors, key=errors.__getitem__) == (0.1, 0.2)
    assert student.mean.grad is None


def mirrored(b: Batch) -> Batch:
    """With every noise its negative too, at the same times: means over so few samples are those of the noise's law."""
    twice, further = partial(torch.cat, dim=0), {}
    for name, each in b.further.items():
        further[name] = Noise(twice([each.z, -each.z]), twice([each.t, each.t]))
    x0, z, t, labels = (twice([x, y]) for x, y in ((b.x0, b.x0), (b.z, -b.z), (b.t, b.t), (b.labels, b.labels)))
    return Batch(x0, z, t, labels, further=further)


def test_generator_and_fake_score_reach_the_data() -> None:
    """By the turns of the method, from a generator of another law: mean and std within 2 % of the data's."""
    student, fake = Generator(0.2, 0.2), Gaussian(M, S)
    turns, nets = turns_of("vsd", VsdRecipe.model_validate(RECIPE), {}), networks(student, fake)
    optimizers = [torch.optim.Adam(net.parameters(), betas=(0.9, 0.99)) for net in (student, fake)]
    batches = [mirrored(batch(128, seed, (1, 1, 1))) for seed in range(16)]
    for step in range(200):
        b = batches[step % 16]
        for turn in turns:
            losses = turn.loss(nets, b, step)
            losses.loss.backward()
            b = replace(b, drawn=losses.drawn) if losses.drawn is not None else b
        # The fake score follows faster than the generator moves: else both turn around each other.
        for optimizer, rate in zip(optimizers, (0.005, 0.1), strict=True):
            optimizer.param_groups[0]["lr"] = rate / math.sqrt(max(step / 100, 1))
            optimizer.step()
            optimizer.zero_grad()
    assert student.mean.item() == pytest.approx(M, rel=0.02)
    assert student.std.item() == pytest.approx(S, rel=0.02)
    assert fake.mean.item() == pytest.approx(M, rel=0.02)
    assert fake.log_std.exp().item() == pytest.approx(S, rel=0.05)


def narrow(b: Batch) -> Batch:
    """In float32."""
    further = {name: Noise(noise.z.float(), noise.t.float()) for name, noise in b.further.items()}
    return Batch(b.x0.float(), b.z.float(), b.t.float(), b.labels, further=further)


@pytest.mark.parametrize(("method", "kind"), [("vsd", VsdRecipe), ("scd_vsd", ScdVsdRecipe)])
def test_a_step_evaluates_what_the_plan_counts(method: Method, kind: type[VsdRecipe] | type[ScdVsdRecipe]) -> None:
    """Calls of each network, with tangent and with gradient, over the turns of one microbatch."""
    config = NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8)
    nets: dict[NetworkName, TrigFlowNet] = {}
    seen: list[Pass] = []

    def note(name: NetworkName, net: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(Pass(name, isinstance(args[0], Dual), torch.is_grad_enabled(), guided=name == "teacher"))

    names: tuple[NetworkName, ...] = ("student", "fake", "teacher")
    for name in names:
        nets[name] = TrigFlowNet(config)
        nets[name].reset_parameters(torch.Generator().manual_seed(0))
        nets[name].register_forward_pre_hook(partial(note, name))
    b = narrow(batch(2, shape=(4, 8, 8)))
    for turn in turns_of(method, kind.model_validate(RECIPE), nets):
        losses = turn.loss(nets, b, 1)
        losses.loss.backward()
        b = replace(b, drawn=losses.drawn) if losses.drawn is not None else b
    assert sorted(map(str, seen)) == sorted(map(str, PARTS[method].passes))
    assert all(parameter.grad is None for parameter in nets["teacher"].parameters())
