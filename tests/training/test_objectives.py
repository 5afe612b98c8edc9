"""The losses on Gaussian data, whose answers are known in closed form (tests/closed_forms.py)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.trigflow import SIGMA_DATA, velocity
from scaling.methods.batch import Batch, adaptive_loss, draw_noise, draw_time
from scaling.methods.consistency import consistency_loss, data_velocity, teacher_velocity
from scaling.methods.tangent import Tangent
from scaling.methods.teacher import teacher_loss
from tests.closed_forms import Gaussian, Known

S = 0.3  # standard deviation of the data


GAUSSIAN = Gaussian(S)
teacher_f, student_f = GAUSSIAN.teacher(), GAUSSIAN.student()


def batch(count: int = 64, seed: int = 0) -> Batch:
    """Gaussian data at random times."""
    generator = torch.Generator().manual_seed(seed)
    x0, z = torch.randn(2, count, 1, 2, 2, generator=generator, dtype=torch.float64)
    tau = torch.randn(count, generator=generator, dtype=torch.float64)
    return Batch(S * x0, draw_noise(z), draw_time(tau, -0.8, 1.6), torch.zeros(count, dtype=torch.int64))


def test_distilling_an_exact_teacher_leaves_an_exact_student_alone() -> None:
    """At the true consistency function the full tangent g of sCD is zero for every sample, not only on average."""
    b = batch()
    dxdt = teacher_velocity(Known(teacher_f), b)  # type: ignore[arg-type]
    raw = Tangent("clip")
    losses = consistency_loss(Known(student_f), b, dxdt, 1.0, raw)  # type: ignore[arg-type]
    assert losses.log["tangent_norm"].item() < 1e-12


def test_tangent_is_the_derivative_along_the_trajectory() -> None:
    """g = -cos t df/dt by finite differences along the teacher's ODE, for a student that is not consistent."""
    b = batch()
    dxdt = teacher_velocity(Known(teacher_f), b)  # type: ignore[arg-type]

    def wrong(x: Tensor, t: Tensor) -> Tensor:
        return x * (t + 0.2)[:, None, None, None] ** 2

    def f(x_t: Tensor, t: Tensor) -> Tensor:
        cos, sin = t.cos()[:, None, None, None], t.sin()[:, None, None, None]
        return cos * x_t - sin * SIGMA_DATA * wrong(x_t / SIGMA_DATA, t)

    h = 1e-6
    df = (f(b.x_t + h * dxdt, b.t + h) - f(b.x_t - h * dxdt, b.t - h)) / (2 * h)
    want = df * b.t.cos()[:, None, None, None]
    losses = consistency_loss(Known(wrong), b, dxdt, 1.0, Tangent())  # type: ignore[arg-type]
    got = losses.log["tangent_norm"].item()
    assert got == pytest.approx(want.flatten(1).norm(dim=1).mean().item(), rel=1e-6)


def test_gradient_points_against_the_bounded_tangent() -> None:
    """d loss / d F = -2 g / D at the stop-gradient point: for a shift of F it is -2 mean(g)."""
    b = batch()
    dxdt = data_velocity(b)
    net = Known(teacher_f)
    tangent = Tangent("normalize", "l2", 0.1)
    consistency_loss(net, b, dxdt, 0.5, tangent).loss.backward()  # type: ignore[arg-type]
    cos, sin = b.t.cos()[:, None, None, None], b.t.sin()[:, None, None, None]
    h = 1e-6
    ahead, behind = (teacher_f((b.x_t + sign * h * dxdt) / SIGMA_DATA, b.t + sign * h) for sign in (1, -1))
    slope = SIGMA_DATA * (ahead - behind) / (2 * h)
    g = -(cos**2) * (SIGMA_DATA * teacher_f(b.x_t / SIGMA_DATA, b.t) - dxdt) - 0.5 * cos * sin * (b.x_t + slope)
    g = g / (g.flatten(1).norm(dim=1)[:, None, None, None] + 0.1)
    assert net.shift.grad is not None
    assert net.shift.grad.item() == pytest.approx(-2 * g.mean().item(), rel=1e-5)


def test_warmup_removes_the_second_term() -> None:
    """At r = 0 only cos^2 (sd F - dx/dt) is left."""
    b = batch()
    dxdt = data_velocity(b)
    losses = consistency_loss(Known(student_f), b, dxdt, 0.0, Tangent())  # type: ignore[arg-type]
    cos = b.t.cos()[:, None, None, None]
    want = cos**2 * (SIGMA_DATA * student_f(b.x_t / SIGMA_DATA, b.t) - dxdt)
    assert losses.log["tangent_norm"].item() == pytest.approx(want.flatten(1).norm(dim=1).mean().item())


def test_teacher_loss_at_the_exact_teacher_is_the_conditional_variance() -> None:
    """E||sd F - v_t||^2 / D = E[Var(v_t | x_t)] = s^2 sd^2 / v(t), and no other function does better."""
    b = batch(200_000)
    want = (S**2 * SIGMA_DATA**2 / GAUSSIAN.variance(b.t)).mean().item()
    exact = teacher_loss(Known(teacher_f), b).log["velocity_error"].item()  # type: ignore[arg-type]
    worse = teacher_loss(Known(lambda x, t: teacher_f(x, t) * 1.2), b).log["velocity_error"].item()  # type: ignore[arg-type]
    assert exact == pytest.approx(want, rel=0.01)
    assert worse > exact


def test_consistency_training_estimates_the_teachers_tangent() -> None:
    """The mean of v_t given x_t is the PF-ODE's velocity: both give one expected gradient for a shift of F."""
    b = batch(200_000)
    gradients = []
    for dxdt in (data_velocity(b), teacher_velocity(Known(teacher_f), b)):  # type: ignore[arg-type]
        net = Known(lambda x, t: 0 * x + 0.3)
        raw = Tangent("normalize", "l2", 1e6)  # so large that the normalisation is linear
        consistency_loss(net, b, dxdt, 1.0, raw).loss.backward()  # type: ignore[arg-type]
        assert net.shift.grad is not None
        gradients.append(net.shift.grad.item() * 1e6)
    assert gradients[0] == pytest.approx(gradients[1], rel=0.05, abs=2e-3)


def test_adaptive_weight_settles_at_the_log_of_the_error() -> None:
    """e^w E - w is least at w = -ln E, where the loss is 1 + ln E."""
    error = torch.tensor([0.1, 2.0], dtype=torch.float64)
    w = (-error.log()).requires_grad_()
    loss = adaptive_loss(error, w)
    assert loss.item() == pytest.approx((1 + error.log()).mean().item())
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("norm", ["l2", "rms"])
def test_tangent_normalisation(norm) -> None:
    """||g / (||g|| + c)|| = ||g|| / (||g|| + c) in the norm that was asked for; clipping limits each element."""
    g = torch.full((1, 1, 4, 4), 3.0, dtype=torch.float64)
    length = 3.0 * (4 if norm == "l2" else 1)
    tangent = Tangent("normalize", norm, 0.1)
    assert tangent.length(g).item() == pytest.approx(length)
    assert tangent.length(tangent.bound(g)).item() == pytest.approx(length / (length + 0.1))
    assert Tangent("clip").bound(g).max() == 1


def test_proposal_distribution() -> None:
    """ln(tan t) + ln sd has the asked mean and deviation; the noise has deviation sd."""
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tau = (SIGMA_DATA * draw_time(normal, -0.8, 1.6).tan()).log()
    assert tau.mean().item() == pytest.approx(-0.8, abs=0.03)
    assert tau.std().item() == pytest.approx(1.6, abs=0.02)
    assert draw_noise(normal).std().item() == pytest.approx(SIGMA_DATA, rel=0.02)


def test_velocity_of_the_data_is_that_of_trigflow() -> None:
    """sCT's dx/dt is cos t z - sin t x0."""
    b = batch(2)
    torch.testing.assert_close(data_velocity(b), velocity(b.x0, b.z, b.t))
    assert math.isfinite(b.t.sum().item())
