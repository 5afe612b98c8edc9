"""Named, versioned maps between images and the latents that networks see.

A latent z leaves `encode` unnormalised (that is what shards hold); networks see x = (z - mean) sigma_data / std with
the constants of the encoder, channel by channel. Mixing encoders ruins results silently, so shards, runs and
checkpoints carry the encoder's name and refuse another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.trigflow import SIGMA_DATA


@dataclass(frozen=True)
class Encoder:
    """Images uint8 [N, H, W, C] to latents [N, c, h, w] and back; mean and std are measured over the data."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]

    def normalize(self, z: Tensor) -> Tensor:
        """Latents of `encode` -> what networks see: mean 0 and standard deviation SIGMA_DATA in each channel."""
        mean, std = self._statistics(z)
        return (z - mean) * (SIGMA_DATA / std)

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self._statistics(x)
        return x * (std / SIGMA_DATA) + mean

    def to_images(self, x: Tensor) -> Tensor:
        """What networks make [N, c, h, w] -> images uint8 [N, H, W, C]."""
        return self.decode(self.denormalize(x))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=like.device, dtype=like.dtype).reshape(shape)
        return mean, torch.tensor(self.std, device=like.device, dtype=like.dtype).reshape(shape)


def _pixels_to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _unit_to_pixels(x: Tensor) -> Tensor:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded; values outside are limited to the range."""
    if not torch.isfinite(x).all():
        raise ValueError("cannot decode: the samples hold NaN or infinity")
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _space_to_depth(images: Tensor) -> Tensor:
    return F.pixel_unshuffle(_pixels_to_unit(images), 2)


def _depth_to_space(z: Tensor) -> Tensor:
    return _unit_to_pixels(F.pixel_shuffle(z, 2))


# Channel statistics of the 60,000 training images, by `python -m scaling.datasets`.
FASHION_S2D = Encoder(
    name="fashion-s2d-v1",
    mean=(-0.55969, -0.56052, -0.56302, -0.56299),
    std=(0.62627, 0.62712, 0.62619, 0.62756),
    encode=_space_to_depth,
    decode=_depth_to_space,
)

ENCODERS = {encoder.name: encoder for encoder in (FASHION_S2D,)}


def get_encoder(name: str) -> Encoder:
    """The encoder of that name; ValueError lists the known."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: known are {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]
