"""VAEs at rest in diffusers' layout (a folder of config.json and diffusion_pytorch_model.safetensors), opened and run.

Latents are the VAE's own: mean and standard deviation of its posterior, not multiplied by its scaling_factor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.files import sha256_file
from models.encoders import NOT_FINITE, Encoder, EncoderError

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# How many images go through a VAE at once follows from their size: rounding may depend on it, so it is no option.
PIXELS_A_PASS, MOST_A_PASS = 8 * 512 * 512, 32


@dataclass(frozen=True)
class VaeFolder:
    """What a folder says of its VAE before it is opened. factor: pixels a side of a latent pixel."""

    path: Path
    config: Mapping[str, Any]
    sha256: str

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent pixel."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config["latent_channels"]


def find_vae(path: Path) -> VaeFolder:
    """A folder's configuration, checked, and the hash of its weights.

    Raises:
        EncoderError: no AutoencoderKL of RGB images with safetensors weights lies there; names file, key and value.
    """
    try:
        config: Any = json.loads((path / CONFIG).read_text("utf-8"))
    except FileNotFoundError as error:
        raise EncoderError(
            f"{path / CONFIG} does not exist: give the folder of a VAE as diffusers saves it ({CONFIG} and {WEIGHTS})"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(f"{path / CONFIG} cannot be read as JSON ({error})") from error
    _check_config(path / CONFIG, config)
    weights = path / WEIGHTS
    if not weights.is_file():
        others = [file.name for file in sorted(path.glob("*.bin"))]
        pickled = f", only {others[0]}, a pickle, which is not read" if others else ""
        raise EncoderError(f"{weights} does not exist{pickled}: a VAE needs its weights; copy that file")
    return VaeFolder(path, config, sha256_file(weights))


def _check_config(path: Path, config: Any) -> None:
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        kind = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise EncoderError(f"{path}: _class_name is {kind!r}, expected 'AutoencoderKL'")
    for key in ("in_channels", "out_channels"):
        if config.get(key, 3) != 3:
            raise EncoderError(f"{path}: {key} is {config[key]!r}, expected 3: images are RGB")
    widths = config.get("block_out_channels", [64])
    if not isinstance(widths, list) or not 1 <= len(widths) <= 8:
        raise EncoderError(f"{path}: block_out_channels is {widths!r:.80}, expected a list of widths")
    if type(config.setdefault("latent_channels", 4)) is not int or config["latent_channels"] < 1:
        raise EncoderError(f"{path}: latent_channels is {config['latent_channels']!r}, expected a positive integer")
    config.setdefault("block_out_channels", widths)


def require_encoders(folder: VaeFolder, encoder: Encoder) -> None:
    """EncoderError unless a VAE can be the encoder's: latent channels, scaling, and weights where they are known."""
    vae, path, config = encoder.vae, folder.path / CONFIG, folder.config
    if vae is None:
        raise EncoderError(f"encoder {encoder.name!r} is a formula and needs no VAE: leave {folder.path} away")
    if folder.channels != len(encoder.mean):
        raise EncoderError(
            f"{path}: latent_channels is {folder.channels}, but encoder {encoder.name!r} has {len(encoder.mean)}: it "
            "is another VAE"
        )
    if vae.scaling is not None and abs(config.get("scaling_factor", 0.18215) - vae.scaling) > 1e-6:
        raise EncoderError(
            f"{path}: scaling_factor is {config['scaling_factor']}, but that of encoder {encoder.name!r} is "
            f"{vae.scaling}: it is another VAE"
        )
    if config.get("shift_factor"):
        raise EncoderError(f"{path}: shift_factor is {config['shift_factor']}, but encoder {encoder.name!r} has none")
    if vae.sha256 not in (None, folder.sha256):
        raise EncoderError(
            f"{folder.path / WEIGHTS}: SHA-256 is {folder.sha256}, but encoder {encoder.name!r} was made with "
            f"{vae.sha256}: it is another VAE"
        )


@dataclass(frozen=True)
class OpenVae:
    """A VAE on its device, frozen, in float32. low: it sees pixels in [low, 1]."""

    model: Any
    low: float
    device: torch.device

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Images uint8 [N, H, W, 3] -> mean and standard deviation of each latent, float32 [N, 2c, h, w]."""
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() * ((1 - self.low) / 255) + self.low
        posterior = self.model.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents [N, c, h, w] -> images uint8 [N, H, W, 3], rounded. EncoderError where they are not finite."""
        pixels = (self.model.decode(z.to(self.device).float()).sample - self.low) * (255 / (1 - self.low))
        if not pixels.isfinite().all():
            raise EncoderError(NOT_FINITE)
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def open_vae(folder: VaeFolder, low: float, device: torch.device) -> OpenVae:
    """Load a VAE. EncoderError where diffusers is missing, or the weights are not those of config.json."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when diffusers is first imported: nothing is ever fetched
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise EncoderError(f"a VAE needs diffusers ({error}): pip install 'trigscale[vae]'") from error
    try:
        loaded: Any = AutoencoderKL.from_pretrained(
            str(folder.path),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers, safetensors and torch each have their own
        raise EncoderError(f"{folder.path} cannot be opened as a VAE ({str(error)[:300]})") from error
    model, said = loaded
    for key in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := said[key]:
            what = key.removesuffix("_keys")
            raise EncoderError(f"{folder.path / WEIGHTS}: {what} {names[0]!r:.100} and {len(names) - 1} more")
    return OpenVae(model.eval().requires_grad_(False).to(device), low, device)


def images_a_pass(height: int, width: int) -> int:
    """How many images of this size go through a VAE at once."""
    return max(1, min(MOST_A_PASS, PIXELS_A_PASS // (height * width)))


@dataclass(frozen=True)
class Decoder:
    """From the latents of one encoder to images, so many at a time."""

    encoder: Encoder
    function: Callable[[Tensor], Tensor]
    factor: int

    def latents(self, z: Tensor) -> Tensor:
        """Latents [N, c, h, w] as shards hold them -> images uint8 [N, H, W, C] on the CPU."""
        size = images_a_pass(self.factor * z.shape[2], self.factor * z.shape[3]) if self.encoder.vae else len(z)
        return torch.cat([self.function(part).cpu() for part in z.split(max(size, 1))])

    def samples(self, x: Tensor) -> Tensor:
        """What networks make [N, c, h, w] -> images uint8 [N, H, W, C] on the CPU."""
        return self.latents(self.encoder.denormalize(x))


def open_decoder(encoder: Encoder, vae: Path | None, device: torch.device) -> Decoder:
    """What turns an encoder's latents into images; vae: the folder of its VAE, where it is one.

    Raises:
        EncoderError: the folder is missing, or holds another VAE.
    """
    if encoder.vae is None:
        return Decoder(encoder, encoder.decode, 1)
    if vae is None:
        raise EncoderError(f"encoder {encoder.name!r} is a VAE, and none is named: set data.vae to its folder")
    folder = find_vae(vae)
    require_encoders(folder, encoder)
    return Decoder(encoder, open_vae(folder, encoder.vae.low, device).decode, folder.factor)
