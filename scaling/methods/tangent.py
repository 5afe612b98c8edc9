"""The tangent g of Algorithm 1: how dF/dt is had, and how g is kept in bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.dual import Dual
from models.trigflow import SIGMA_DATA, TrigFlowNet, expand
from scaling.methods.batch import Batch


@dataclass(frozen=True)
class Tangent:
    """How the tangent g is kept in bounds: g / (||g|| + constant), g limited to [-1, 1], or (raw) not at all."""

    kind: Literal["normalize", "clip", "raw"] = "normalize"
    norm: Literal["l2", "rms"] = "l2"
    constant: float = 0.1

    def bound(self, g: Tensor) -> Tensor:
        """The bounded tangent, [B, C, H, W]."""
        if self.kind == "raw":
            return g
        if self.kind == "clip":
            return g.clamp(-1, 1)
        return g / (expand(self.length(g), g) + self.constant)

    def length(self, g: Tensor) -> Tensor:
        """||g|| of each sample, [B]."""
        length = torch.linalg.vector_norm(g.flatten(1), dim=1)
        return length if self.norm == "l2" else length / math.sqrt(g[0].numel())


@dataclass(frozen=True)
class Derivative:
    """How dF/dt along dx_t/dt is had, beside F itself.

    rearranged: forward mode in the direction (cos t sin t dx_t/dt, cos t sin t sd), which stays finite near t = 0 and
    pi/2 (sCM, section 4.3). plain: forward mode in the direction (dx_t/dt, sd), multiplied by cos t sin t afterwards.
    central: (F(t + h) - F(t - h)) / 2h, with an error of order h^2. backward: (F(t) - F(t - h)) / h, of order h, which
    is what discrete-time training computes. h = step, in radians, is less where t is within two of 0 or pi/2.
    """

    kind: Literal["rearranged", "plain", "central", "backward"] = "rearranged"
    step: float = 0.01

    def of(self, net: TrigFlowNet, batch: Batch, dxdt: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F [B, C, H, W] with its graph, w(t) [B], and factor sd dF/dt without a graph; factor [B, 1, 1, 1]."""
        if self.kind in ("rearranged", "plain"):
            inside = factor if self.kind == "rearranged" else torch.ones_like(factor)
            f, w = net(
                Dual(batch.x_t / SIGMA_DATA, inside * dxdt),
                Dual(batch.t, inside.flatten() * SIGMA_DATA),
                batch.labels,
                **batch.conditions,
                with_weight=True,
            )
            return f.value, w, f.tangent if self.kind == "rearranged" else factor * f.tangent
        h = torch.minimum(batch.t, math.pi / 2 - batch.t).div(2).clamp(max=self.step)
        ahead = self._moved(net, batch, dxdt, h) if self.kind == "central" else None
        behind = self._moved(net, batch, dxdt, -h)
        f, w = net(batch.x_t / SIGMA_DATA, batch.t, batch.labels, **batch.conditions, with_weight=True)
        slope = (f.detach() - behind) if ahead is None else (ahead - behind) / 2
        return f, w, factor * SIGMA_DATA * slope / expand(h, slope)

    @torch.no_grad()
    def _moved(self, net: TrigFlowNet, batch: Batch, dxdt: Tensor, h: Tensor) -> Tensor:
        """F at time t + h on the straight line along dx_t/dt."""
        x = batch.x_t + expand(h, dxdt) * dxdt
        return net(x / SIGMA_DATA, batch.t + h, batch.labels, **batch.conditions)
