"""The losses: the TrigFlow teacher, and consistency models by Algorithm 1 of the sCM paper (Lu & Song, 2025).

sd is SIGMA_DATA, D the number of elements of a sample, F the network at (x / sd, t), w(t) the adaptive weighting that
is trained beside it. All losses are means over the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.dropout import Dropout
from models.dual import Dual
from models.trigflow import SIGMA_DATA, TrigFlowNet, add_noise, expand, time_from_sigma, velocity
from scaling.methods.guidance import guided


@dataclass(frozen=True)
class Batch:
    """Samples and all that is random about a step: x0, z [B, C, H, W], t [B], labels int64 [B], dropout.

    guidance [B]: the strength with which the teacher of each sample is guided; None: no guidance.
    """

    x0: Tensor
    z: Tensor
    t: Tensor
    labels: Tensor
    dropout: Dropout | None = None
    guidance: Tensor | None = None

    @property
    def x_t(self) -> Tensor:
        """cos(t) x0 + sin(t) z."""
        return add_noise(self.x0, self.z, self.t)


@dataclass(frozen=True)
class Losses:
    """The loss to minimise and what is worth logging about it (detached scalars)."""

    loss: Tensor
    log: dict[str, Tensor]


def draw_time(normal: Tensor, p_mean: float, p_std: float) -> Tensor:
    """t = arctan(e^tau / sd) with tau = p_mean + p_std * normal: the proposal distribution, [B] -> [B]."""
    return time_from_sigma(torch.exp(p_mean + p_std * normal))


def draw_noise(normal: Tensor) -> Tensor:
    """z ~ N(0, sd^2 I) from standard normal numbers."""
    return SIGMA_DATA * normal


def adaptive_loss(squared_error: Tensor, weight: Tensor) -> Tensor:
    """mean over the batch of e^w / D ||.||^2 - w; squared_error is the mean over D already, both [B]."""
    return (torch.exp(weight) * squared_error - weight).mean()


def _mean_square(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1)


def teacher_loss(net: TrigFlowNet, batch: Batch) -> Losses:
    """E[e^w / D || sd F(x_t / sd, t) - v_t ||^2 - w] (section 3.1)."""
    x_t = batch.x_t
    f, w = net(x_t / SIGMA_DATA, batch.t, batch.labels, drop=batch.dropout, with_weight=True)
    error = _mean_square(SIGMA_DATA * f - velocity(batch.x0, batch.z, batch.t))
    return Losses(adaptive_loss(error, w), {"velocity_error": error.detach().mean(), "weight": w.detach().mean()})


def data_velocity(batch: Batch) -> Tensor:
    """dx_t/dt of consistency training: cos(t) z - sin(t) x0."""
    return velocity(batch.x0, batch.z, batch.t)


@torch.no_grad()
def teacher_velocity(teacher: TrigFlowNet, batch: Batch) -> Tensor:
    """dx_t/dt of consistency distillation: the teacher's PF-ODE, sd F_teacher(x_t / sd, t), guided where asked for."""
    x = batch.x_t / SIGMA_DATA
    if batch.guidance is None:
        return SIGMA_DATA * teacher(x, batch.t, batch.labels)
    return SIGMA_DATA * guided(teacher, x, batch.t, batch.labels, batch.guidance)


@dataclass(frozen=True)
class Tangent:
    """How the tangent g is kept in bounds: g / (||g|| + constant), or g limited to [-1, 1]."""

    kind: Literal["normalize", "clip"] = "normalize"
    norm: Literal["l2", "rms"] = "l2"
    constant: float = 0.1

    def bound(self, g: Tensor) -> Tensor:
        """The bounded tangent, [B, C, H, W]."""
        if self.kind == "clip":
            return g.clamp(-1, 1)
        return g / (expand(self.length(g), g) + self.constant)

    def length(self, g: Tensor) -> Tensor:
        """||g|| of each sample, [B]."""
        length = torch.linalg.vector_norm(g.flatten(1), dim=1)
        return length if self.norm == "l2" else length / math.sqrt(g[0].numel())


def consistency_loss(net: TrigFlowNet, batch: Batch, dxdt: Tensor, warmup: float, tangent: Tangent) -> Losses:
    """Algorithm 1, from the velocity dx_t/dt [B, C, H, W] to the loss; `warmup` is r = min(1, iteration / H).

    F with its graph and the stop-gradient derivative come out of one forward pass: the JVP of F at (x_t / sd, t) in
    direction (cos t sin t dx_t/dt, cos t sin t sd) is cos t sin t sd dF/dt, and stays finite near t = 0 and pi/2.
    """
    x_t = batch.x_t
    cos, sin = (expand(fn(batch.t), x_t) for fn in (torch.cos, torch.sin))
    speed = (cos * sin).flatten()
    f, w = net(
        Dual(x_t / SIGMA_DATA, cos * sin * dxdt),
        Dual(batch.t, speed * SIGMA_DATA),
        batch.labels,
        guidance=batch.guidance,
        drop=batch.dropout,
        with_weight=True,
    )
    f_stop = f.value.detach()
    g = -(cos**2) * (SIGMA_DATA * f_stop - dxdt) - warmup * (cos * sin * x_t + f.tangent)
    bounded = tangent.bound(g)
    loss = adaptive_loss(_mean_square(f.value - f_stop - bounded), w)
    log = {
        "tangent_norm": tangent.length(g).mean(),
        "tangent_norm_normalized": tangent.length(bounded).mean(),
        "weight": w.detach().mean(),
    }
    return Losses(loss, log)
