"""Named, versioned maps between images and the latents that networks see.

A latent z leaves `encode` unnormalised (that is what shards hold); networks see x = (z - mean) sigma_data / std with
the constants of the encoder, channel by channel. Mixing encoders ruins results silently, so shards, runs and
checkpoints carry the encoder's name and refuse another.

Names, channels and costs are known without torch, which is imported where tensors are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from data_pipeline.errors import UserError
from models.network import SIGMA_DATA

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class EncoderError(UserError):
    """Images that an encoder does not take, or cannot make here."""


@dataclass(frozen=True)
class Codec:
    """Images uint8 [N, H, W, C] to latents [N, c, h, w] and back."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Encoder:
    """A named map between images and latents; mean and std are those of its latents over the data, by channel.

    codec: None where the map is a VAE, which this version does not run. takes: height, width and channels of its
    images, None for any. decoder_macs: multiply-adds to decode an image.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    codec: Codec | None
    takes: tuple[int | None, int | None, int] = (None, None, 3)
    decoder_macs: float = 0.0

    def require_codec(self) -> Codec:
        """The map itself; EncoderError where this version cannot run it."""
        if self.codec is None:
            raise EncoderError(
                f"encoder {self.name!r}: a VAE encodes and decodes it, which this version cannot run: its latents can "
                "be trained on, not packed from images nor made into images"
            )
        return self.codec

    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 [N, H, W, C] -> latents [N, c, h, w], unnormalised.

        Raises:
            EncoderError: this version cannot run the map, or the images are not what it takes; names those that fit.
        """
        import torch

        codec = self.require_codec()
        if images.dtype != torch.uint8 or images.ndim != 4 or not self.fits(images.shape[1:]):
            raise EncoderError(
                f"encoder {self.name!r} takes images uint8 of {_size(self.takes)}, these are "
                f"{str(images.dtype).removeprefix('torch.')} of {_size(images.shape[1:])}: {_fitting(images.shape[1:])}"
            )
        return codec.encode(images)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the map takes images of this height, width and number of channels, and can be run."""
        sizes = zip(self.takes, shape, strict=False)
        return self.codec is not None and len(shape) == 3 and all(take in (None, size) for take, size in sizes)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [N, c, h, w], unnormalised -> images uint8 [N, H, W, C]. Raises EncoderError."""
        return self.require_codec().decode(z)

    def normalize(self, z: Tensor) -> Tensor:
        """Latents of `encode` -> what networks see: mean 0 and standard deviation SIGMA_DATA in each channel."""
        mean, std = self._statistics(z.device, z.dtype)
        return (z - mean) * (SIGMA_DATA / std)

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self._statistics(x.device, x.dtype)
        return x * (std / SIGMA_DATA) + mean

    def to_images(self, x: Tensor) -> Tensor:
        """What networks make [N, c, h, w] -> images uint8 [N, H, W, C]."""
        return self.decode(self.denormalize(x))

    @cache  # noqa: B019 - encoders live as long as the module, and a GPU waits for each constant that is sent to it
    def _statistics(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        import torch

        mean, std = torch.tensor([self.mean, self.std], device=device, dtype=dtype).reshape(2, 1, -1, 1, 1)
        return mean, std


def _size(shape: Sequence[int | None]) -> str:
    return f"any size, {shape[-1]} channels" if None in shape else "x".join(map(str, shape))


def _fitting(shape: Sequence[int]) -> str:
    """Which encoders take images of this height, width and number of channels."""
    names = [encoder.name for encoder in ENCODERS.values() if encoder.fits(shape)]
    if not names:
        return "no encoder takes these: bring them to a size that one takes, or write an Encoder for them"
    return f"encoders that take these: {', '.join(names)}"


def _pixels_to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _unit_to_pixels(x: Tensor) -> Tensor:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded; values outside are limited to the range."""
    import torch

    if not x.isfinite().all():
        raise ValueError("cannot decode: the samples hold NaN or infinity")
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _space_to_depth(images: Tensor) -> Tensor:
    from torch.nn.functional import pixel_unshuffle

    return pixel_unshuffle(_pixels_to_unit(images), 2)


def _depth_to_space(z: Tensor) -> Tensor:
    from torch.nn.functional import pixel_shuffle

    return _unit_to_pixels(pixel_shuffle(z, 2))


# Channel statistics of the 60,000 training images, by `python -m scaling.data.sources`.
FASHION_S2D = Encoder(
    name="fashion-s2d-v1",
    mean=(-0.55969, -0.56052, -0.56302, -0.56299),
    std=(0.62627, 0.62712, 0.62619, 0.62756),
    codec=Codec(_space_to_depth, _depth_to_space),
    takes=(16, 16, 1),
)

# Pixels in [-1, 1], which EDM takes to have standard deviation 0.5: they reach the network as they are.
RGB = Encoder(
    name="rgb-v1",
    mean=(0.0, 0.0, 0.0),
    std=(SIGMA_DATA, SIGMA_DATA, SIGMA_DATA),
    codec=Codec(_pixels_to_unit, _unit_to_pixels),
)

# The decoder of Stable Diffusion's VAE at 512x512, counted by EDM2.
SD_VAE_MACS = 1260.9e9

# sCM's: the VAE ft-mse, fed with pixels in [-1, 1].
SD_VAE_FT_MSE = Encoder(
    name="sd-vae-ft-mse-v1",
    mean=(1.56, -0.695, 0.483, 0.729),
    std=(5.27, 5.91, 4.21, 4.31),
    codec=None,
    decoder_macs=SD_VAE_MACS,
)

# That of EDM2's released networks: fed with pixels in [0, 1].
EDM2_SD_VAE = Encoder(
    name="edm2-sd-vae-v1",
    mean=(5.81, 3.25, 0.12, -2.15),
    std=(4.17, 4.62, 3.71, 3.28),
    codec=None,
    decoder_macs=SD_VAE_MACS,
)

ENCODERS = {encoder.name: encoder for encoder in (FASHION_S2D, RGB, SD_VAE_FT_MSE, EDM2_SD_VAE)}


def get_encoder(name: str) -> Encoder:
    """The encoder of that name; ValueError lists the known."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: known are {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]
