"""A small random VAE as diffusers saves it, images in class folders, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scaling.cli.main import app, run_cli

SIDE = 16  # of the images that are encoded: latents of 4x4


def save_vae(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A VAE of the real one's form, with few channels and a factor of 4."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(seed)
    form: dict[str, Any] = {
        "block_out_channels": (4, 4, 8),
        "norm_num_groups": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    AutoencoderKL(**(form | changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a VAE."""
    return save_vae(tmp_path_factory.mktemp("vae"))


def random_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Smooth colour images of 40x30."""
    noise = np.random.Generator(np.random.Philox(seed)).integers(256, size=(count, 3, 4, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((40, 30), Image.Resampling.BICUBIC) for each in noise]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images in three class folders; they make a group of 32 and one of 8."""
    folder = tmp_path_factory.mktemp("source") / "pets"
    for number, image in enumerate(random_pictures(40)):
        target = folder / ("cat", "dog", "emu")[number % 3] / f"{number:02d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    return folder


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[Any]) -> Callable[..., Result]:
    """Run `trigscale data ...` in this process."""

    def running(*arguments: str | Path | int) -> Result:
        capfd.readouterr()
        code = run_cli(lambda: app(["data", *map(str, arguments)]))
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return running


@pytest.fixture
def encode(cli: Callable[..., Result], images: Path, vae: Path) -> Callable[..., Result]:
    """Encode the images into a folder, with further arguments."""

    def encoding(to: Path, *arguments: str | Path | int, source: Path = images, folder: Path = vae) -> Result:
        words = ("--encoder", "sd-vae-ft-mse-v1", "--size", SIDE, "--shard-samples", 32, "--device", "cpu")
        return cli("encode", source, "--vae", folder, "--to", to, *words, *arguments)

    return encoding
