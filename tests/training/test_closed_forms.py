"""What must hold exactly where the answers are known: the tangent of an ideal student, and EDM's loss in TrigFlow."""

from __future__ import annotations

import torch

from models.trigflow import SIGMA_DATA
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.consistency import consistency_loss, teacher_velocity
from scaling.methods.tangent import Tangent
from scaling.methods.teacher import teacher_loss
from tests.closed_forms import Gaussian, Known

DATA = Gaussian(0.3, mu=0.4)


def batch(count: int = 64, seed: int = 0, channels: int = 1, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x0, z = torch.randn(2, count, channels, size, size, generator=generator, dtype=torch.float64)
    tau = torch.randn(count, generator=generator, dtype=torch.float64)
    return Batch(DATA.mu + DATA.s * x0, draw_noise(z), draw_time(tau, -0.8, 1.6), torch.full((count,), -1))


def test_at_the_ideal_student_the_tangent_of_distillation_vanishes() -> None:
    b = batch(256)
    dxdt = teacher_velocity(Known(DATA.teacher()), b)  # type: ignore[arg-type]
    torch.testing.assert_close(dxdt, DATA.velocity(b.x_t, b.t), rtol=1e-12, atol=1e-13)
    losses = consistency_loss(Known(DATA.student()), b, dxdt, 1.0, Tangent("clip"))  # type: ignore[arg-type]
    assert losses.log["tangent_norm"].item() < 1e-10


def test_the_losses_of_edm_and_of_trigflow_are_one() -> None:
    """EDM's (s^2 + sd^2) / (s sd)^2 ||c_skip x + c_out F(c_in x) - x0||^2 at s = sd tan t, x = x_t / cos t, for any F.

    EDM's F predicts -v / sd: the network's sign is turned.
    """

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x) + x * t[:, None, None, None] ** 2

    b = batch(32)
    sigma = (SIGMA_DATA * b.t.tan())[:, None, None, None]
    x = b.x0 + sigma * b.z / SIGMA_DATA
    total = sigma**2 + SIGMA_DATA**2
    denoised = SIGMA_DATA**2 / total * x - sigma * SIGMA_DATA / total.sqrt() * f(x / total.sqrt(), b.t)
    edm = total / (sigma * SIGMA_DATA) ** 2 * (denoised - b.x0) ** 2
    ours = teacher_loss(Known(f), b).log["velocity_error"]  # type: ignore[arg-type]
    # EDM scales the error by 1 / sd^2.
    torch.testing.assert_close(edm.mean() * SIGMA_DATA**2, ours, rtol=1e-12, atol=0)
