"""The magnitude-preserving operations of EDM2 (Karras et al. 2024, arXiv 2312.02696), on tensors and on `Dual` values.

Each keeps the expected magnitude of its output at one for inputs of magnitude one. "Eq." refers to that paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dual import Dual, Signal, combine, linear, nonlinear

EPS = 1e-4
SILU_RMS = 0.596  # RMS of silu(x) for x ~ N(0, 1)


def normalize_weight(weight: Tensor) -> Tensor:
    """Scale each output unit [o, ...] to RMS one: forced weight normalisation (Eq. 66)."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    rms = wide.flatten(1).square().mean(1).sqrt()
    return weight * (1 / (EPS + rms)).to(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1))


def pixel_norm(x: Signal, dim: int = 1) -> Signal:
    """x divided by its RMS over `dim`, computed in float32 at least (Eq. 30)."""

    def inverse_rms(value: Tensor) -> Tensor:
        wide = value if value.dtype == torch.float64 else value.float()
        # Limited below so that the root has a gradient where all channels are zero.
        square = wide.square().mean(dim, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        return 1 / (EPS + square.sqrt())

    if not isinstance(x, Dual):
        return x * inverse_rms(x).to(x.dtype)
    inverse = inverse_rms(x.value)
    result = x.value * inverse.to(x.value.dtype)
    with torch.no_grad():
        # d rms = mean(x dx) / rms, and 1/inverse = EPS + rms.
        wide, tangent = x.value.to(inverse.dtype), x.tangent.to(inverse.dtype)
        rms = 1 / inverse - EPS
        d_rms = (wide * tangent).mean(dim, keepdim=True) / rms.clamp_min(torch.finfo(rms.dtype).tiny)
        return Dual(result, ((tangent - wide * inverse * d_rms) * inverse).to(result.dtype))


def mp_silu(x: Signal) -> Signal:
    """silu(x) / 0.596 (Eq. 81)."""

    def derivative(value: Tensor, tangent: Tensor, result: Tensor) -> Tensor:
        gate = torch.sigmoid(value)
        return tangent * (gate / SILU_RMS + result * (1 - gate))

    return nonlinear(lambda value: F.silu(value) / SILU_RMS, derivative, x)


def mp_sum(a: Signal, b: Signal, t: float) -> Signal:
    """lerp(a, b, t) / sqrt((1-t)^2 + t^2) (Eq. 88)."""
    scale = 1 / math.hypot(1 - t, t)
    return combine(lambda x, y: torch.add(x * ((1 - t) * scale), y, alpha=t * scale), a, b)


def mp_cat(a: Tensor | Dual, b: Tensor | Dual, t: float = 0.5) -> Signal:
    """Channel concatenation with total power one, of which `b` has the share t^2 : (1-t)^2 (Eq. 103)."""

    def cat(x: Tensor, y: Tensor) -> Tensor:
        na, nb = x.shape[1], y.shape[1]
        scale = math.sqrt((na + nb) / ((1 - t) ** 2 + t**2))
        return torch.cat([x * (scale / math.sqrt(na) * (1 - t)), y * (scale / math.sqrt(nb) * t)], dim=1)

    return combine(cat, a, b)


def resample(x: Signal, mode: str) -> Signal:
    """ "keep"; "down": mean of 2x2 boxes; "up": each pixel repeated 2x2 (EDM2's filter [1, 1])."""
    if mode == "keep":
        return x
    if mode == "down":
        return linear(lambda value: F.avg_pool2d(value, 2), x)
    return linear(lambda value: F.interpolate(value, scale_factor=2, mode="nearest"), x)


def clip(x: Signal, bound: float) -> Signal:
    """x limited to +-bound; the tangent is zero where the limit holds."""
    return nonlinear(
        lambda value: value.clamp(-bound, bound),
        lambda value, tangent, _: tangent * (value.abs() <= bound).to(tangent.dtype),
        x,
    )


def dropout(x: Signal, p: float, seed: int) -> Signal:
    """Zero a share p of the elements, scale the rest by 1/(1-p); value and tangent share the mask drawn from `seed`."""
    value = x.value if isinstance(x, Dual) else x
    generator = torch.Generator(value.device).manual_seed(seed)
    keep = torch.rand(value.shape, generator=generator, device=value.device) >= p
    mask = keep.to(value.dtype) / (1 - p)
    return linear(lambda v: v * mask, x)


class MPLinear(nn.Module):
    """Linear layer or convolution without bias whose weight is normalised at each use (EDM2 config G, Eq. 47).

    `kernel` is () for a linear layer on [B, i] and (k, k) for a convolution on [B, i, H, W] with padding k // 2.
    The effective weight is normalize(weight) * gain / sqrt(fan_in).
    """

    def __init__(self, i: int, o: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(o, i, *kernel))
        self.kernel = kernel

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weight from N(0, 1)."""
        with torch.no_grad():
            self.weight.normal_(generator=generator)

    def forward(self, x: Signal, gain: Tensor | float = 1.0) -> Signal:
        """[B, i, ...] -> [B, o, ...]."""
        weight = normalize_weight(self.weight) * (gain / math.sqrt(self.weight[0].numel()))
        if not self.kernel:
            return linear(lambda value: F.linear(value, weight.to(value.dtype)), x)
        pad = self.kernel[0] // 2
        return linear(lambda value: F.conv2d(value, weight.to(value.dtype), padding=pad), x)

    @torch.no_grad()
    def force_weight_norm(self) -> None:
        """Replace the stored weight by its normalised form; called after each optimizer step."""
        self.weight.copy_(normalize_weight(self.weight))
