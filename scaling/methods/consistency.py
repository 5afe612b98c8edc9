"""Continuous-time consistency models, sCT and sCD: Algorithm 1 of the sCM paper (Lu & Song, 2025)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.trigflow import SIGMA_DATA, TrigFlowNet, expand, velocity
from scaling.config.recipes import StudentRecipe
from scaling.methods.batch import Batch, Losses, mean_square, weighted_loss
from scaling.methods.discrete import discrete_loss, neighbours
from scaling.methods.ends import ends_of
from scaling.methods.guidance import guided, guided_by
from scaling.methods.tangent import Derivative, Tangent

FORWARD_MODE = Derivative()


def consistency_loss(
    net: TrigFlowNet,
    batch: Batch,
    dxdt: Tensor,
    warmup: float,
    tangent: Tangent,
    *,
    end: Tensor | None = None,
    derivative: Derivative = FORWARD_MODE,
    adaptive: bool = True,
) -> Losses:
    """Algorithm 1, from the velocity dx_t/dt [B, C, H, W] to the loss; `warmup` is r = min(1, iteration / H).

    F with its graph and the stop-gradient derivative come out of one forward pass (`derivative` knows other ways).
    adaptive: whether w(t) is trained; the prior weight 1 / (sd tan t) is part of g. end [B]: where the trajectories
    lead, None for 0: of f(x, t, s) = cos(t - s) x - sin(t - s) sd F, which is x_s, all is the same with t - s for t.
    """
    x_t = batch.x_t
    turn = batch.t if end is None else batch.t - end
    cos, sin = (expand(fn(turn), x_t) for fn in (torch.cos, torch.sin))
    f, w, slope = derivative.of(net, batch, dxdt, cos * sin)
    f_stop = f.detach()
    g = -(cos**2) * (SIGMA_DATA * f_stop - dxdt) - warmup * (cos * sin * x_t + slope)
    bounded = tangent.bound(g)
    loss = weighted_loss(mean_square(f - f_stop - bounded), w, adaptive)
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
def teacher_velocity(teacher: TrigFlowNet, batch: Batch, guide: TrigFlowNet | None = None) -> Tensor:
    """dx_t/dt of consistency distillation: the teacher's PF-ODE, sd F_teacher(x_t / sd, t), guided where asked for.

    guide: the weaker network away from which it is guided; None: away from itself without labels.
    """
    x = batch.x_t / SIGMA_DATA
    strength = batch.strength
    if strength is None:
        return SIGMA_DATA * teacher(x, batch.t, batch.labels)
    if guide is not None:
        return SIGMA_DATA * guided_by(guide, teacher, x, batch.t, batch.labels, strength)
    return SIGMA_DATA * guided(teacher, x, batch.t, batch.labels, strength)


@dataclass(frozen=True)
class Consistency(ABC):
    """Algorithm 1 or its control in discrete time, as a recipe says; a subclass says where dx_t/dt comes from."""

    recipe: StudentRecipe

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """The loss of step number `step`, counted from 1."""
        recipe = self.recipe
        if recipe.is_discrete:
            later, before = neighbours(batch.t, recipe, step)
            batch = replace(batch, t=later)
            ends = ends_of(batch, recipe)
            return discrete_loss(net, batch, self.dxdt(batch), before, ends, adaptive=recipe.adaptive_weighting)
        return consistency_loss(
            net,
            batch,
            self.dxdt(batch),
            min(1.0, step / recipe.warmup_steps) if recipe.warmup_steps else 1.0,
            Tangent(recipe.tangent, recipe.tangent_norm, recipe.tangent_constant),
            end=ends_of(batch, recipe),
            derivative=Derivative(recipe.derivative, recipe.derivative_step),
            adaptive=recipe.adaptive_weighting,
        )

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
    guide: TrigFlowNet | None = None

    def dxdt(self, batch: Batch) -> Tensor:
        """`teacher_velocity`."""
        return teacher_velocity(self.teacher, batch, self.guide)
