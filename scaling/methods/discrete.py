"""Discrete-time consistency models: f(x_t, t) is taught to be what it was a little nearer to the data.

Consistency training and distillation of Song et al. (2023) in the parameterisation, on the network and with the
weighting of Algorithm 1, as its controls. Neighbours are two of EDM's noise levels (rho 7), or come nearer while
training goes on, as in Easy Consistency Tuning (Geng et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.trigflow import SIGMA_DATA, TrigFlowNet, denoise, edm_times, expand, time_from_sigma
from scaling.config.recipes import StudentRecipe
from scaling.methods.batch import Batch, Losses, mean_square, weighted_loss

LEAST_TIME = float(edm_times(2)[1])  # that of sigma 0.002: networks see no less
NEAREST = 1e-5  # radians: nearer to pi/2 float32 has no more than a few times between
ECT_K = 8.0  # k and b of ECT's mapping, its defaults
ECT_B = 1.0


def neighbours(t: Tensor, recipe: StudentRecipe, step: int) -> tuple[Tensor, Tensor]:
    """The times to compare, for times t [B] of the proposal: the later one, and the one before it, [B] each.

    On EDM's grid of N levels and 0 the interval that holds t; else t itself and ECT's r(t) of this step, from 1.
    """
    if recipe.discrete_steps is None:
        assert recipe.discrete_double_every is not None, "a discrete recipe has one of the two"
        return t, nearer(t, (step - 1) // recipe.discrete_double_every)
    grid = edm_times(recipe.discrete_steps).flip(0).to(t.dtype).to(t.device)
    place = torch.searchsorted(grid, t).clamp(1, recipe.discrete_steps)
    return grid[place], grid[place - 1]


def nearer(t: Tensor, doublings: int) -> Tensor:
    """ECT's r = sigma (1 - n(sigma) / 2^(doublings + 1)), n = 1 + 8 sigmoid(-sigma), as a time; 0 where it is below."""
    sigma = SIGMA_DATA * t.tan()
    share = (1 + ECT_K * torch.sigmoid(-ECT_B * sigma)) / 2 ** (doublings + 1)
    before = time_from_sigma((sigma * (1 - share)).clamp(min=0))
    return torch.minimum(before, t - NEAREST).clamp(min=0)


def discrete_loss(
    net: TrigFlowNet,
    batch: Batch,
    dxdt: Tensor,
    before: Tensor,
    end: Tensor | None = None,
    *,
    adaptive: bool = True,
) -> Losses:
    """e^w / D ||f(x_t, t) - f-(x_s, s)||^2 / (sd tan t (t - s)) - w for the times s = `before` [B].

    x_s is where one step of DDIM along dx_t/dt leads, which on the arc of the data, dx_t/dt = cos t z - sin t x0, is
    exactly cos s x0 + sin s z. The prior 1 / (sd tan t) and the distance make the gradient that of Algorithm 1 with a
    raw tangent as t - s -> 0: g is the limit of cos t (f(x_t, t) - f-(x_s, s)) / (t - s). end [B]: where the
    trajectories lead, None for 0; s is not before it.
    """
    end = torch.zeros_like(batch.t) if end is None else end
    before = torch.maximum(before, end)
    x_t, step, length = batch.x_t, batch.t - before, batch.t - end
    turn = expand(step, x_t)
    x_s = turn.cos() * x_t - turn.sin() * dxdt
    with torch.no_grad():
        f_before = net(x_s / SIGMA_DATA, before.clamp(min=LEAST_TIME), batch.labels, **batch.conditions)
        target = denoise(x_s, f_before, before - end)
    f, w = net(x_t / SIGMA_DATA, batch.t, batch.labels, **batch.conditions, with_weight=True)
    difference = denoise(x_t, f, length) - target
    error = mean_square(difference) / (SIGMA_DATA * length.tan() * step)
    g = difference.detach().flatten(1).norm(dim=1) * length.cos() / step
    return Losses(weighted_loss(error, w, adaptive), {"tangent_norm": g.mean(), "weight": w.detach().mean()})
