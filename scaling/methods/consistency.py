"""Continuous-time consistency models, sCT and sCD: Algorithm 1 of the sCM paper (Lu & Song, 2025)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.dual import Dual
from models.trigflow import SIGMA_DATA, TrigFlowNet, expand, velocity
from scaling.config.sections import StudentRecipe
from scaling.methods.batch import Batch, Losses, adaptive_loss, mean_square
from scaling.methods.guidance import guided


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
    loss = adaptive_loss(mean_square(f.value - f_stop - bounded), w)
    log = {
        "tangent_norm": tangent.length(g).mean(),
        "tangent_norm_normalized": tangent.length(bounded).mean(),
        "weight": w.detach().mean(),
    }
    return Losses(loss, log)


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
class Consistency(ABC):
    """Algorithm 1 with what a recipe says of it; a subclass says where dx_t/dt comes from."""

    recipe: StudentRecipe

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """The loss of step number `step`, counted from 1."""
        recipe = self.recipe
        warmup = min(1.0, step / recipe.warmup_steps) if recipe.warmup_steps else 1.0
        tangent = Tangent(recipe.tangent, recipe.tangent_norm, recipe.tangent_constant)
        return consistency_loss(net, batch, self.dxdt(batch), warmup, tangent)

    @abstractmethod
    def dxdt(self, batch: Batch) -> Tensor:
        """The velocity of the noised samples, [B, C, H, W]."""


@dataclass(frozen=True)
class Training(Consistency):
    """The method `sct`: the velocity is that of the data."""

    def dxdt(self, batch: Batch) -> Tensor:
        """`data_velocity`."""
        return data_velocity(batch)


@dataclass(frozen=True)
class Distillation(Consistency):
    """The method `scd`: the velocity is that of a frozen teacher."""

    teacher: TrigFlowNet

    def dxdt(self, batch: Batch) -> Tensor:
        """`teacher_velocity`."""
        return teacher_velocity(self.teacher, batch)
