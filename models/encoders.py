"""Named, versioned maps between images and the latents that networks see.

A latent z leaves its map unnormalised (that is what shards hold); networks see x = (z - mean) sigma_data / std with
the constants of the encoder, channel by channel. Mixing encoders ruins results silently, so shards, runs and
checkpoints carry the encoder's name and refuse another.

Names, channels and costs are known without torch, which is imported where tensors are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from models.network import SIGMA_DATA

if TYPE_CHECKING:
    import torch
    from torch import Tensor


NOT_FINITE = "cannot decode: the samples hold NaN or infinity: the weights do, or their training went astray"


class EncoderError(UserError):
    """Images that an encoder does not take, or a VAE that is not the encoder's."""


@dataclass(frozen=True)
class Codec:
    """Images uint8 [N, H, W, C] to latents [N, c, h, w] and back, by a formula of that name."""

    name: str
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Vae:
    """The map is a VAE in diffusers' layout, which lies in a folder of its own (`models.vae` opens it).

    low: it is fed with pixels in [low, 1], and makes such. scaling: the scaling_factor that its config.json must say,
    None for any; latents are not multiplied by it. sha256: of its file of weights, None for any.
    """

    low: float
    scaling: float | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Encoder:
    """A named map between images and latents; mean and std are those of its latents over the data, by channel.

    takes: height, width and channels of its images, None for any. decoder_macs: multiply-adds to decode an image.
    shards: the name that its shards carry where it is another: an encoder of the same map with other constants.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    map: Codec | Vae
    takes: tuple[int | None, int | None, int] = (None, None, 3)
    decoder_macs: float = 0.0
    shards: str | None = None

    def describe(self) -> dict[str, Any]:
        """Plain values from which `encoder_of` makes it again, for files that are read where it is not known."""
        content = {"name": self.name, "map": "vae" if isinstance(self.map, Vae) else self.map.name}
        content |= {"mean": list(self.mean), "std": list(self.std), "images": list(self.takes), "shards": self.shards}
        return content | ({"vae": asdict(self.map)} if isinstance(self.map, Vae) else {})

    @property
    def vae(self) -> Vae | None:
        """The VAE that the map is, None where it is a formula."""
        return self.map if isinstance(self.map, Vae) else None

    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 [N, H, W, C] -> latents [N, c, h, w], unnormalised, by a formula.

        Raises:
            EncoderError: the map is a VAE, or the images are not what it takes; names those that fit.
        """
        import torch

        codec = self._formula()
        if images.dtype != torch.uint8 or images.ndim != 4 or not self.fits(images.shape[1:]):
            raise EncoderError(
                f"encoder {self.name!r} takes images uint8 of {_size(self.takes)}, these are "
                f"{str(images.dtype).removeprefix('torch.')} of {_size(images.shape[1:])}: {_fitting(images.shape[1:])}"
            )
        return codec.encode(images)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the map is a formula that takes images of this height, width and number of channels."""
        sizes = zip(self.takes, shape, strict=False)
        return self.vae is None and len(shape) == 3 and all(take in (None, size) for take, size in sizes)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [N, c, h, w], unnormalised -> images uint8 [N, H, W, C], by a formula. EncoderError for a VAE."""
        return self._formula().decode(z)

    def _formula(self) -> Codec:
        if isinstance(self.map, Vae):
            raise EncoderError(f"encoder {self.name!r} is a VAE: `trigscale data encode` runs it, given its folder")
        return self.map

    def normalize(self, z: Tensor) -> Tensor:
        """Latents of the map -> what networks see: mean 0 and standard deviation SIGMA_DATA in each channel."""
        mean, std = self._statistics(z.device, z.dtype)
        return (z - mean) * (SIGMA_DATA / std)

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        mean, std = self._statistics(x.device, x.dtype)
        return x * (std / SIGMA_DATA) + mean

    @cache  # noqa: B019 - encoders live as long as the process, and a GPU waits for each constant that is sent to it
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
        return "no encoder takes these: bring them to a size that one takes"
    return f"encoders that take these: {', '.join(names)}"


def pixels_to_unit(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def unit_to_pixels(x: Tensor) -> Tensor:
    """float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded; values outside are limited to the range."""
    import torch

    if not x.isfinite().all():
        raise EncoderError(NOT_FINITE)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _space_to_depth(images: Tensor) -> Tensor:
    from torch.nn.functional import pixel_unshuffle

    return pixel_unshuffle(pixels_to_unit(images), 2)


def _depth_to_space(z: Tensor) -> Tensor:
    from torch.nn.functional import pixel_shuffle

    return unit_to_pixels(pixel_shuffle(z, 2))


SPACE_TO_DEPTH = Codec("space-to-depth-2", _space_to_depth, _depth_to_space)
PIXELS = Codec("pixels", pixels_to_unit, unit_to_pixels)

# Channel statistics of the 60,000 training images, by `python -m scaling.data.sources`.
FASHION_S2D = Encoder(
    name="fashion-s2d-v1",
    mean=(-0.55969, -0.56052, -0.56302, -0.56299),
    std=(0.62627, 0.62712, 0.62619, 0.62756),
    map=SPACE_TO_DEPTH,
    takes=(16, 16, 1),
)

# Pixels in [-1, 1], which EDM takes to have standard deviation 0.5: they reach the network as they are.
RGB = Encoder(
    name="rgb-v1",
    mean=(0.0, 0.0, 0.0),
    std=(SIGMA_DATA, SIGMA_DATA, SIGMA_DATA),
    map=PIXELS,
)

# The same of one channel.
GREY = Encoder(
    name="grey-v1",
    mean=(0.0,),
    std=(SIGMA_DATA,),
    map=PIXELS,
    takes=(None, None, 1),
)

# The decoder of Stable Diffusion's VAE at 512x512, counted by EDM2.
SD_VAE_MACS = 1260.9e9
SD_VAE_SCALING = 0.18215  # what its config.json says, and that of no other VAE of four channels

# sCM's: the VAE ft-mse, fed with pixels in [-1, 1].
SD_VAE_FT_MSE = Encoder(
    name="sd-vae-ft-mse-v1",
    mean=(1.56, -0.695, 0.483, 0.729),
    std=(5.27, 5.91, 4.21, 4.31),
    map=Vae(low=-1.0, scaling=SD_VAE_SCALING),
    decoder_macs=SD_VAE_MACS,
)

# That of EDM2's released networks: fed with pixels in [0, 1].
EDM2_SD_VAE = Encoder(
    name="edm2-sd-vae-v1",
    mean=(5.81, 3.25, 0.12, -2.15),
    std=(4.17, 4.62, 3.71, 3.28),
    map=Vae(low=0.0, scaling=SD_VAE_SCALING),
    decoder_macs=SD_VAE_MACS,
)

ENCODERS = {encoder.name: encoder for encoder in (FASHION_S2D, RGB, GREY, SD_VAE_FT_MSE, EDM2_SD_VAE)}


def get_encoder(name: str) -> Encoder:
    """The encoder of that name; ValueError lists the known."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: known are {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]


def encoder_of(content: Mapping[str, Any]) -> Encoder:
    """The encoder that `Encoder.describe` described; ValueError where it is none, or ours with other constants."""
    codecs = {codec.name: codec for codec in (SPACE_TO_DEPTH, PIXELS)}
    try:
        name, kind = content["name"], content["map"]
        made = Encoder(
            name,
            tuple(map(float, content["mean"])),
            tuple(map(float, content["std"])),
            Vae(**content["vae"]) if kind == "vae" else codecs[kind],
            tuple(content["images"]),
            shards=content["shards"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"describes no encoder that is known here ({error!r})") from None
    known = ENCODERS.get(name)
    if known is None:
        return made
    if made.vae and known.vae:
        known = replace(known, map=replace(known.vae, sha256=made.vae.sha256))
    if replace(made, decoder_macs=known.decoder_macs) != known:
        raise ValueError(f"has other constants than {name!r} has: altered, or of another version")
    return known
