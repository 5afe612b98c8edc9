"""Where trajectories lead: to the data, to the end of a segment of time, or to any time that the network is told.

f(x_t, t, s) = cos(t - s) x_t - sin(t - s) sd F is a point x_s of the trajectory. With s = 0 it is a consistency model.
Multistep consistency models (Heek et al. 2024; sCM, section 5) cut (0, t_max) into M equal pieces, and s is the end of
the piece that holds t: M = 1 is a consistency model, and M without end a diffusion model. A flow map knows any s, as an
input of its own (Kim et al. 2024; Boffi et al. 2024); trained from the data by the derivative along t it is MeanFlow
(Geng et al. 2025) on TrigFlow's arcs instead of straight lines, and its F for s = t is the velocity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.network import T_MAX
from scaling.config.recipes import StudentRecipe
from scaling.methods.batch import Batch


def ends_of(batch: Batch, recipe: StudentRecipe) -> Tensor | None:
    """Where the trajectories of a batch lead, [B]; None for 0."""
    if batch.to is not None:
        return torch.minimum(batch.to, batch.t)
    return segment_end(batch.t, recipe.segments) if recipe.segments > 1 else None


def segment_end(t: Tensor, segments: int) -> Tensor:
    """The lower end of the piece (s, s + t_max / M] that holds t [B]; times beyond t_max belong to the last piece."""
    width = T_MAX / segments
    return (t / width).ceil().sub(1).clamp(0, segments - 1) * width


def drawn_end(t: Tensor, same: Tensor, place: Tensor, share: float) -> Tensor:
    """The time s [B] that a flow map is told: t itself for the `share` of samples, else uniform in the time before it.

    same, place: U[0, 1) numbers [B].
    """
    return torch.where(same < share, t, place * t)


def segment_times(segments: int) -> Tensor:
    """The times of sampling in M segments, from t_max down to 0: [M + 1]."""
    return torch.linspace(T_MAX, 0, segments + 1, dtype=torch.float64)


def flow_times(steps: int, intermediate_t: float) -> Tensor:
    """The times of sampling a flow map in one step or, by way of `intermediate_t`, in two: [steps + 1]."""
    between = [intermediate_t] if steps == 2 else []
    return torch.tensor([T_MAX, *between, 0.0], dtype=torch.float64)
