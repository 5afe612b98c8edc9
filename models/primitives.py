"""The magnitude-preserving operations of EDM2 (Karras et al. 2024, arXiv 2312.02696), on tensors and on `Dual` values.

Each keeps the expected magnitude of its output at one for inputs of magnitude one. "Eq." refers to that paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dual import Dual, Signal, combine, linear, nonlinear, value_of

EPS = 1e-4
SILU_RMS = 0.596  # RMS of silu(x) for x ~ N(0, 1)


def rms(x: Tensor, dim: int) -> Tensor:
    """Root mean square over `dim`, which is kept as 1, in float32 at least; its gradient is zero where x is zero."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.device.type == "cpu" and x.dtype == wide and x.stride(dim) != 1:
        # There PyTorch's norm takes ten to thirty times as long. clamp keeps the root's slope finite at zero.
        return x.square().mean(dim, keepdim=True).clamp_min(torch.finfo(wide).tiny).sqrt()
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=wide) / math.sqrt(x.shape[dim])


def weight_scale(weight: Tensor) -> Tensor:
    """What brings each output unit of a weight [o, ...] to RMS one, [o, 1, ...] (Eq. 66)."""
    scale = 1 / (EPS + rms(weight.flatten(1), 1))
    return scale.to(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1))


def pixel_norm(x: Signal, dim: int = 1) -> Signal:
    """x divided by its RMS over `dim` (Eq. 30)."""
    if not isinstance(x, Dual):
        return x * (1 / (EPS + rms(x, dim))).to(x.dtype)
    magnitude = rms(x.value, dim)
    inverse = 1 / (EPS + magnitude)
    result = x.value * inverse.to(x.value.dtype)
    with torch.no_grad():
        # d rms = mean(x dx) / rms.
        wide, tangent = x.value.to(inverse.dtype), x.tangent.to(inverse.dtype)
        d_rms = (wide * tangent).mean(dim, keepdim=True) / magnitude.clamp_min(torch.finfo(inverse.dtype).tiny)
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
    # Not torch.add(..., alpha=): torch.compile drops alpha where y is a matrix product (pytorch/pytorch#167313).
    return combine(lambda x, y: torch.lerp(x, y, t) * scale, a, b)


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
    return linear(_repeat_pixels, x)


def _repeat_pixels(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W] in the layout of x.

    Not F.interpolate: compiled by torch 2.13, its gradient is read before it is summed, and comes out as zero.
    """
    b, c, h, w = x.shape
    if x.stride(1) != 1:
        return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)
    pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(b, h, 2, w, 2, c)
    return pixels.reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def clip(x: Signal, bound: float) -> Signal:
    """x limited to +-bound; gradient and tangent are zero where the limit holds."""

    def limit(value: Tensor) -> Tensor:
        # For its gradient clamp would keep value, which nothing else needs: that was 12 % of all activations.
        limited = value.detach().clamp(-bound, bound)
        return torch.where(limited == value.detach(), value, limited)

    return nonlinear(limit, lambda value, tangent, result: torch.where(value == result, tangent, 0), x)


def apply_weight(weight: Tensor, kernel: tuple[int, ...], x: Signal) -> Signal:
    """The linear layer, or the convolution with padding k // 2, of a weight [o, i, ...] in the type of x."""
    weight = weight.to(value_of(x).dtype)  # once for value and tangent
    if not kernel:
        return linear(lambda value: F.linear(value, weight), x)
    return linear(lambda value: F.conv2d(value, weight, padding=kernel[0] // 2), x)


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
        return apply_weight(self.effective_weight(gain), self.kernel, x)

    def effective_weight(self, gain: Tensor | float = 1.0) -> Tensor:
        """normalize(weight) * gain / sqrt(fan_in), [o, i, ...]."""
        scale = weight_scale(self.weight) * (gain / math.sqrt(self.weight[0].numel()))
        return self.weight * scale

    @torch.no_grad()
    def force_weight_norm(self) -> None:
        """Replace the stored weight by its normalised form; called after each optimizer step."""
        self.weight.mul_(weight_scale(self.weight))
