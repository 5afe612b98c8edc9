"""`data encode` beside a bare loop of the same VAE: what reading, resizing, rounding and writing cost on top of it.

    PYTHONPATH=. python benchmarks/encode.py [--width 32] [--side 256] [--images 64] [--pairs 3] [--device auto]

The bare loop runs the VAE over images that lie in memory, in the same groups. Pairs of both in turns; the median of
their ratios, by wall time and by processor time (on a busy machine only the second means something). Images are JPEG
files of 500x375, as ImageNet's are; the VAE has Stable Diffusion's form with random weights, its widths 1, 2, 4, 4
times `width` (128 is its own). Then what a latent loses that is mirrored instead of encoded from the mirrored image.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_pipeline.pictures import centre_crop
from data_pipeline.sources.find import find_source
from models.vae import OpenVae, find_vae, images_a_pass, open_vae
from scaling.data.encode import Job
from scaling.data.encode_run import encode
from scaling.study.machine import machine, versions


def save_vae(folder: Path, width: int) -> None:
    """Stable Diffusion's VAE with other widths and random weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    form: dict[str, Any] = {
        "block_out_channels": (width, 2 * width, 4 * width, 4 * width),
        "layers_per_block": 2,
        "norm_num_groups": min(32, width),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
    }
    AutoencoderKL(**form).save_pretrained(folder)


def save_images(folder: Path, count: int) -> None:
    """JPEG files of 500x375 in two class folders."""
    random = np.random.Generator(np.random.Philox(0))
    for number in range(count):
        coarse = Image.fromarray(random.integers(256, size=(24, 32, 3), dtype=np.uint8))
        target = folder / f"class{number % 2}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=95)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def bare(vae: OpenVae, images: torch.Tensor) -> None:
    """The VAE alone over images uint8 [N, H, W, 3] in memory."""
    for part in images.split(images_a_pass(images.shape[1], images.shape[2])):
        vae.moments(part).cpu()


def mirror_error(vae: OpenVae, images: torch.Tensor) -> float:
    """Root mean square of (mirrored latent - latent of the mirrored image), over the latents' standard deviation."""
    mean, mirrored = (vae.moments(each)[:, :4].cpu() for each in (images, images.flip(2)))
    spread = mean.std((0, 2, 3), keepdim=True)
    return ((mean.flip(3) - mirrored) / spread).square().mean().sqrt().item()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 32), ("side", 256), ("images", 64), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        save_vae(root / "vae", options.width)
        save_images(root / "images", options.images)
        source, folder = find_source(root / "images"), find_vae(root / "vae")
        job = Job(source, folder, -1.0, "benchmark-v1", options.side, False)
        crops = [centre_crop(Image.open(source.where(n)), options.side) for n in range(len(source))]
        images = torch.from_numpy(np.stack([np.asarray(crop) for crop in crops]))
        vae = open_vae(folder, -1.0, device)
        bare(vae, images[:4])
        loading = timed(lambda: open_vae(folder, -1.0, device))  # encode opens the VAE once more: it is taken off
        ratios = []
        for pair in range(options.pairs):
            alone = timed(lambda: bare(vae, images))
            whole = timed(lambda pair=pair: encode(job, root / f"to{pair}", 1000, 1, options.device))
            ratios.append([a / (w - o) for a, w, o in zip(alone, whole, loading, strict=True)])
            print(f"pair {pair}: bare {options.images / alone[1]:.2f}, encode "
                  f"{options.images / (whole[1] - loading[1]):.2f} images a processor second", flush=True)  # fmt: skip
        wall, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"encode / bare loop: {100 * processor:.1f} % by processor time, {100 * wall:.1f} % by wall time")
        print(f"a mirrored latent against the latent of the mirrored image: {mirror_error(vae, images[:4]):.2f} of "
              "the latents' standard deviation")  # fmt: skip
    facts = machine(device)
    print(f"{options}; {facts['cpu']}, {facts['cores']} cores, {facts['device']}; torch {versions()['torch']}; "
          f"{date.today()}")  # fmt: skip


if __name__ == "__main__":
    main()
