"""The embedded images as a person would have them: two zips of 64x64 PNG files, one folder a class; and a VAE for them.

    python -m scaling.data.enlarged --to DIR     train.zip, held-out.zip, and vae/ as diffusers saves one

They stand in for ImageNet and Stable Diffusion's VAE in configs/study/latents.yaml.
"""

from __future__ import annotations

import argparse
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.fashion import CLASS_NAMES, Split, load_fashion
from data_pipeline.files import atomic_folder

SIDE = 64
SMALL_VAE = Path(__file__).parents[2] / "data_pipeline" / "assets" / "small-vae"
DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes at every run
NAMES: dict[Split, str] = {"train": "train", "test": "held-out"}


def enlarge(image: np.ndarray) -> Image.Image:
    """A grey image uint8 [16, 16] at 64x64, bicubic."""
    return Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def write_zip(path: Path, split: Split, count: int) -> None:
    """The first `count` images of a split, each in the folder of its class."""
    images, labels = load_fashion(split)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            buffer = io.BytesIO()
            enlarge(images[number]).save(buffer, "PNG")
            folder = CLASS_NAMES[labels[number]].replace("/", "-")
            archive.writestr(zipfile.ZipInfo(f"{folder}/{number:05d}.png", DATE), buffer.getvalue())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m scaling.data.enlarged", description="images and a VAE for them")
    parser.add_argument("--to", type=Path, required=True, help="new folder")
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--held-out", type=int, default=2_000, help="held-out images")
    options = parser.parse_args()
    with atomic_folder(options.to) as folder:
        write_zip(folder / f"{NAMES['train']}.zip", "train", options.train)
        write_zip(folder / f"{NAMES['test']}.zip", "test", options.held_out)
        shutil.copytree(SMALL_VAE, folder / "vae")


if __name__ == "__main__":
    main()
