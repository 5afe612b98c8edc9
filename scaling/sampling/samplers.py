"""Samplers: pure functions from noise to samples.

All start at t_max = arctan(80 / sigma_data) from z ~ N(0, sigma_data^2 I), given as `noise` [B, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from models.network import SIGMA_DATA, T_MAX
from models.trigflow import denoise, edm_times

Velocity = Callable[[Tensor, Tensor], Tensor]  # F at (x / sigma_data, t): [B, C, H, W], [B] -> [B, C, H, W]
Leading = Callable[[Tensor, Tensor, Tensor], Tensor]  # the same with the time to lead to


def sample_teacher(f: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Heun's method of EDM (DPM-Solver-2S) in `steps` steps and 2 steps - 1 evaluations, [B, C, H, W].

    EDM's ODE runs in x_sigma = x_t / cos(t) with derivative (x_sigma - D) / sigma, D the denoiser.
    """
    times = edm_times(steps)
    return _heun(f, noise * times[0].tan().item(), times)


def teacher_flow(f: Velocity, x_t: Tensor, t: float, steps: int) -> Tensor:
    """Where Heun's method takes x_t [B, C, H, W] from time t: the teacher's own consistency function."""
    return _heun(f, x_t / math.cos(t), edm_times(steps, SIGMA_DATA * math.tan(t)))


def _heun(f: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """From x_sigma at the first of the times [K + 1] to the last, which is 0."""
    sigmas, steps = SIGMA_DATA * times.tan(), len(times) - 1

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
    return sample_walk(lambda x, t, to: f(x, t), noise, edm_times(steps))


def sample_walk(f: Leading, noise: Tensor, times: Tensor) -> Tensor:
    """From each of the times [K + 1] to the next by f(x, t, s) = cos(t - s) x - sin(t - s) sigma_data F, [B, C, H, W].

    With EDM's times it is DDIM for a diffusion model; with the ends of its segments it is exact for a multistep
    consistency model, and with any times for a flow map, which is told s.
    """
    x = noise
    for now, then in pairwise(times):
        t, to = (each.to(x.dtype).to(x.device).expand(len(x)) for each in (now, then))
        turn = now - then
        x = turn.cos().item() * x - turn.sin().item() * SIGMA_DATA * f(x / SIGMA_DATA, t, to)
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
