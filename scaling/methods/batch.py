"""What every objective sees and gives: samples with all that is random about a step, and a loss.

sd is SIGMA_DATA, D the number of elements of a sample, F the network at (x / sd, t), w(t) the adaptive weighting that
is trained beside it. All losses are means over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.dropout import Dropout
from models.trigflow import SIGMA_DATA, add_noise, time_from_sigma


class Noise(NamedTuple):
    """Noise z [B, C, H, W] and times t [B] that samples are noised with once more."""

    z: Tensor
    t: Tensor


@dataclass(frozen=True)
class Batch:
    """Samples and all that is random about a step: x0, z [B, C, H, W], t [B], labels int64 [B], dropout.

    guidance [B]: the strength with which the teacher of each sample is guided; None: no guidance. to [B]: the time to
    which the network is told to lead each sample; None: a network that is not told, and leads to 0 or where it must.
    guidance_sigma: noise levels outside which the teacher is not guided; None: none is outside. further: more noise, by
    the losses that it is for (`method.proposals`). drawn: samples of the student, [B, C, H, W] without a graph, that an
    earlier loss of the microbatch drew.
    """

    x0: Tensor
    z: Tensor
    t: Tensor
    labels: Tensor
    dropout: Dropout | None = None
    guidance: Tensor | None = None
    to: Tensor | None = None
    guidance_sigma: tuple[float, float] | None = None
    further: Mapping[str, Noise] = field(default_factory=dict)
    drawn: Tensor | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """What the network is told beside x, t and labels, as its keywords."""
        told = {"guidance": self.guidance, "drop": self.dropout}
        return told if self.to is None else {**told, "to": self.to}

    @property
    def strength(self) -> Tensor | None:
        """With which the teacher is guided at t, [B]: 1 outside the noise levels where it is; None: not at all."""
        if self.guidance is None or self.guidance_sigma is None:
            return self.guidance
        low, high = self.guidance_sigma
        sigma = SIGMA_DATA * self.t.tan()
        return torch.where((low < sigma) & (sigma <= high), self.guidance, 1.0)

    @property
    def x_t(self) -> Tensor:
        """cos(t) x0 + sin(t) z."""
        return add_noise(self.x0, self.z, self.t)

    def noised(self, x0: Tensor, loss: str) -> Batch:
        """Other samples of the same labels, with the further noise of a loss."""
        noise = self.further[loss]
        return replace(self, x0=x0, z=noise.z, t=noise.t)


@dataclass(frozen=True)
class Losses:
    """The loss to minimise and what is worth logging about it (detached scalars).

    drawn: samples of the student, without a graph, that later losses of the microbatch are of.
    """

    loss: Tensor
    log: dict[str, Tensor]
    drawn: Tensor | None = None


def draw_time(normal: Tensor, p_mean: float, p_std: float) -> Tensor:
    """t = arctan(e^tau / sd) with tau = p_mean + p_std * normal: the proposal distribution, [B] -> [B]."""
    return time_from_sigma(torch.exp(p_mean + p_std * normal))


def draw_noise(normal: Tensor) -> Tensor:
    """z ~ N(0, sd^2 I) from standard normal numbers."""
    return SIGMA_DATA * normal


def adaptive_loss(squared_error: Tensor, weight: Tensor) -> Tensor:
    """mean over the batch of e^w / D ||.||^2 - w; squared_error is the mean over D already, both [B]."""
    return (torch.exp(weight) * squared_error - weight).mean()


def weighted_loss(squared_error: Tensor, weight: Tensor, adaptive: bool) -> Tensor:
    """`adaptive_loss`, or without it the mean of the squared errors."""
    if adaptive:
        return adaptive_loss(squared_error, weight)
    # Sharded strategies wait for a gradient of every parameter, those of w(t) too.
    return squared_error.mean() + 0 * weight.sum()


def mean_square(x: Tensor) -> Tensor:
    """The mean of the squares of each sample, [B, ...] -> [B]."""
    return x.square().flatten(1).mean(1)
