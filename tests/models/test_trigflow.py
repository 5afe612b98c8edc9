"""TrigFlow's identities, and its equality with EDM's parameterisation."""

from __future__ import annotations

import math

import torch

from models.network import SIGMA_DATA, T_MAX
from models.trigflow import add_noise, denoise, time_from_sigma, velocity


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, z [5, 2, 3, 3] and t [5]."""
    generator = torch.Generator().manual_seed(0)
    x0, z = SIGMA_DATA * torch.randn(2, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x0, z, torch.linspace(1e-4, T_MAX, 5, dtype=torch.float64)


def test_velocity_is_the_derivative_of_the_path() -> None:
    """v_t = dx_t/dt by finite differences."""
    x0, z, t = draw()
    h = 1e-6
    want = (add_noise(x0, z, t + h) - add_noise(x0, z, t - h)) / (2 * h)
    torch.testing.assert_close(velocity(x0, z, t), want, rtol=1e-7, atol=1e-9)


def test_the_true_velocity_denoises_exactly() -> None:
    """With sigma_data F = v_t the denoiser returns x0."""
    x0, z, t = draw()
    f = velocity(x0, z, t) / SIGMA_DATA
    torch.testing.assert_close(denoise(add_noise(x0, z, t), f, t), x0, rtol=1e-12, atol=1e-12)


def test_denoiser_equals_edm() -> None:
    """With F_edm = -F the denoiser c_skip x_sigma + c_out F_edm of EDM is the same function."""
    x0, z, t = draw()
    f = torch.sin(x0 * 3)
    sigma = SIGMA_DATA * t.tan()
    root = (sigma**2 + SIGMA_DATA**2).sqrt()
    c_skip, c_out = SIGMA_DATA**2 / root**2, sigma * SIGMA_DATA / root
    x_t = add_noise(x0, z, t)
    x_sigma = x_t / t.cos()[:, None, None, None]
    want = c_skip[:, None, None, None] * x_sigma + c_out[:, None, None, None] * -f
    torch.testing.assert_close(denoise(x_t, f, t), want, rtol=1e-10, atol=1e-12)


def test_times() -> None:
    """t_max = arctan(80 / 0.5) = 1.5645, and sigma = sigma_data tan(t)."""
    assert round(T_MAX, 4) == 1.5645
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    t = time_from_sigma(sigma)
    assert t[1].item() == math.pi / 4
    torch.testing.assert_close(SIGMA_DATA * t.tan(), sigma)
