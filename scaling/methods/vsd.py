"""Variational score distillation: a one-step generator that follows the difference of two scores (VSD).

The student's samples are x = f(z, t_max) (Wang et al. 2023, Yin et al. 2024; with sCD: sCM, Lu & Song 2025). Noised to
x_t, their density has the score of the fake network, which is trained on them beside the student, and the data's has
that of the teacher. The student descends KL(samples || data), whose gradient in x_t is their difference. In TrigFlow

    s_fake - s_teacher = -cos t / (sin t sd) (F_fake - F_teacher)

and the weight of Yin et al. (their Eq. 8), one over the error of the teacher's denoiser, makes of it

    h = (sd F_fake - sd F_teacher) / || v_t - sd F_teacher ||

which is finite at every t: sin t is a factor of both. The norm is L2 where theirs is a mean, so that the weight of the
loss beside that of sCD, whose tangents have L2 norm 1, does not depend on the number of elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.network import SIGMA_DATA, T_MAX
from models.trigflow import TrigFlowNet, denoise, expand, velocity
from scaling.config.methods import FAKE, GUIDE, STUDENT, TEACHER, NetworkName
from scaling.methods.batch import Batch, Losses
from scaling.methods.consistency import teacher_velocity
from scaling.methods.teacher import teacher_loss

LEAST = 1e-12  # of a norm that divides: of noise it is never so small


def generate(student: TrigFlowNet, batch: Batch) -> tuple[Tensor, Tensor]:
    """The student's samples in one step from the noise of the microbatch, [B, C, H, W], and w(t_max), [B]."""
    t = torch.full_like(batch.t, T_MAX)
    f, w = student(batch.z / SIGMA_DATA, t, batch.labels, guidance=batch.guidance, drop=batch.dropout, with_weight=True)
    return denoise(batch.z, f, t), w


@torch.no_grad()
def score_direction(fake: TrigFlowNet, teacher: TrigFlowNet, noised: Batch, guide: TrigFlowNet | None = None) -> Tensor:
    """h [B, C, H, W], along which samples x0 descend: noised to x_t they have the fake's score, and want the teacher's.

    It is tan t sd^2 / || v_t - sd F_teacher || times s_teacher - s_fake.
    """
    wanted = teacher_velocity(teacher, noised, guide)
    found = SIGMA_DATA * fake(noised.x_t / SIGMA_DATA, noised.t, noised.labels, guidance=noised.guidance)
    error = torch.linalg.vector_norm((velocity(noised.x0, noised.z, noised.t) - wanted).flatten(1), dim=1)
    return (found - wanted) / expand(error.clamp_min(LEAST), wanted)


def distillation_loss(networks: Mapping[NetworkName, TrigFlowNet], batch: Batch, weight: float = 1.0) -> Losses:
    """`weight` || x / sd - stopped(x / sd) - h ||^2, mean over the batch: its gradient in x / sd is -2 `weight` h."""
    samples, w = generate(networks[STUDENT], batch)
    drawn = samples.detach()
    h = score_direction(networks[FAKE], networks[TEACHER], batch.noised(drawn, "vsd"), networks.get(GUIDE))
    squares = ((samples - drawn) / SIGMA_DATA - h).square().flatten(1).sum(1)
    # Sharded strategies wait for a gradient of every parameter, those of w(t) too.
    loss = weight * squares.mean() + 0 * w.sum()
    return Losses(loss, {"score_difference": squares.detach().sqrt().mean()}, drawn)


def fake_loss(networks: Mapping[NetworkName, TrigFlowNet], batch: Batch) -> Losses:
    """The diffusion loss of the fake score on the samples that the student drew in this microbatch."""
    assert batch.drawn is not None, "the student's turn comes first"
    return teacher_loss(networks[FAKE], replace(batch.noised(batch.drawn, "fake"), dropout=None))
