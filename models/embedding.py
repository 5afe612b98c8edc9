"""How a network is told the time and the guidance: c_noise(t), and its positional and Fourier embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.dual import Signal, linear, nonlinear
from models.network import SIGMA_DATA, EmbeddingKind, TimeInput


def noise_condition(t: Signal, kind: TimeInput) -> Signal:
    """c_noise: t itself, or EDM's ln(sigma_data tan t) / 4, whose slope is 1 / (4 sin t cos t): [B] -> [B]."""
    if kind == "t":
        return t
    return nonlinear(
        lambda value: torch.log(SIGMA_DATA * torch.tan(value)) / 4,
        lambda value, tangent, _: tangent / (4 * torch.sin(value) * torch.cos(value)),
        t,
    )


class CosineEmbedding(nn.Module):
    """sqrt(2) cos(frequency c + phase), [B] -> [B, channels], of magnitude one.

    Positional: frequencies 10000^(-i/half), each as cosine and sine, for bounded derivatives (sCM, section 4.1).
    Fourier: frequencies 2 pi scale N(0, 1) and phases 2 pi U(0, 1), drawn once (EDM2's MPFourier). They are buffers,
    saved with the weights.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, kind: EmbeddingKind, scale: float = 1.0) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        self.register_buffer("freqs", torch.zeros(channels))
        self.register_buffer("phases", torch.zeros(channels))
        if kind == "positional":
            half = channels // 2
            freqs = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
            self.freqs.copy_(torch.cat([freqs, freqs]))
            self.phases.copy_(torch.tensor([0.0, -math.pi / 2]).repeat_interleave(half))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the frequencies and phases of a Fourier embedding; a positional one has nothing to draw."""
        if self.kind == "fourier":
            self.freqs.normal_(generator=generator).mul_(2 * math.pi * self.scale)
            self.phases.uniform_(generator=generator).mul_(2 * math.pi)

    def forward(self, c: Signal) -> Signal:
        """[B] -> [B, channels]."""
        angle = linear(lambda value: torch.outer(value, self.freqs.to(value.dtype)), c)
        phases = self.phases
        return nonlinear(
            lambda value: math.sqrt(2) * torch.cos(value + phases.to(value.dtype)),
            lambda value, tangent, _: -math.sqrt(2) * torch.sin(value + phases.to(value.dtype)) * tangent,
            angle,
        )
