"""Samplers: pure functions from noise to samples.

All start at t_max = arctan(80 / sigma_data) from z ~ N(0, sigma_data^2 I), given as `noise` [B, C, H, W].
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from models.network import SIGMA_DATA, SIGMA_MAX, T_MAX
from models.trigflow import denoise, time_from_sigma

SIGMA_MIN = 0.002
RHO = 7.0

Velocity = Callable[[Tensor, Tensor], Tensor]  # F at (x / sigma_data, t): [B, C, H, W], [B] -> [B, C, H, W]


def edm_times(steps: int) -> Tensor:
    """t of EDM's noise levels from sigma 80 to 0.002 with rho 7 (Karras et al. 2022, Eq. 5), then 0: [steps + 1]."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    sigma = (high + ramp * (low - high)) ** RHO
    return time_from_sigma(torch.cat([sigma, sigma.new_zeros(1)]))


def sample_teacher(f: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Heun's method of EDM (DPM-Solver-2S) in `steps` steps and 2 steps - 1 evaluations, [B, C, H, W].

    EDM's ODE runs in x_sigma = x_t / cos(t) with derivative (x_sigma - D) / sigma, D the denoiser.
    """
    times = edm_times(steps)
    sigmas = SIGMA_DATA * times.tan()
    x = noise * (sigmas[0].item() / SIGMA_DATA)

    def derivative(x: Tensor, n: int) -> Tensor:
        t = times[n].to(x.dtype).to(x.device).expand(len(x))
        x_t = x * times[n].cos().item()
        return (x - denoise(x_t, f(x_t / SIGMA_DATA, t), t)) / sigmas[n].item()

    for n in range(steps):
        h = (sigmas[n + 1] - sigmas[n]).item()
        slope = derivative(x, n)
        end = x + h * slope
        x = end if n == steps - 1 else x + h / 2 * (slope + derivative(end, n + 1))
    return x


def sample_ddim(f: Velocity, noise: Tensor, steps: int) -> Tensor:
    """DDIM (Song et al. 2021) in `steps` steps and as many evaluations, [B, C, H, W].

    In TrigFlow each step is a turn: x_s = cos(t - s) x_t - sin(t - s) sigma_data F (sCM, section 3).
    """
    times = edm_times(steps)
    x = noise
    for now, then in pairwise(times):
        t = now.to(x.dtype).to(x.device).expand(len(x))
        turn = now - then
        x = turn.cos().item() * x - turn.sin().item() * SIGMA_DATA * f(x / SIGMA_DATA, t)
    return x


def sample_student(f: Velocity, noise: Tensor, renoise: Tensor, steps: int, intermediate_t: float) -> Tensor:
    """One step from t_max; for two steps once more from `intermediate_t` with fresh noise `renoise`: [B, C, H, W]."""

    def jump(x: Tensor, t: float) -> Tensor:
        times = x.new_full(x.shape[:1], t)  # not len(x), which an export would take for a constant
        return denoise(x, f(x / SIGMA_DATA, times), times)

    sample = jump(noise, T_MAX)
    if steps == 2:
        t = torch.tensor(intermediate_t, dtype=torch.float64)
        sample = jump(t.cos().item() * sample + t.sin().item() * renoise, intermediate_t)
    return sample
