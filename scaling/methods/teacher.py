"""The TrigFlow teacher: a diffusion model trained on the velocity (sCM, section 3.1)."""

from __future__ import annotations

from models.trigflow import SIGMA_DATA, TrigFlowNet, velocity
from scaling.methods.batch import Batch, Losses, adaptive_loss, mean_square


def teacher_loss(net: TrigFlowNet, batch: Batch) -> Losses:
    """E[e^w / D || sd F(x_t / sd, t) - v_t ||^2 - w] (section 3.1)."""
    x_t = batch.x_t
    f, w = net(x_t / SIGMA_DATA, batch.t, batch.labels, guidance=batch.guidance, drop=batch.dropout, with_weight=True)
    error = mean_square(SIGMA_DATA * f - velocity(batch.x0, batch.z, batch.t))
    return Losses(adaptive_loss(error, w), {"velocity_error": error.detach().mean(), "weight": w.detach().mean()})


class Diffusion:
    """The method `teacher`."""

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """`teacher_loss`, the same at every step."""
        return teacher_loss(net, batch)
