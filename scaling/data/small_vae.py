"""A small VAE of the embedded images, enlarged: what stands in for Stable Diffusion's where a study runs on a laptop.

    python -m scaling.data.small_vae --to DIR     train it (a minute of one core) and save it as diffusers does

The one under data_pipeline/assets/small-vae/ was made so; `scaling.data.enlarged` copies it beside its images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_pipeline.fashion import load_fashion
from data_pipeline.files import atomic_folder
from scaling.data.enlarged import enlarge

STEPS, BATCH, LR = 300, 16, 4e-3
KL_WEIGHT = 1e-4
FORM = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 64,
    "scaling_factor": 1.0,
}


def train(steps: int = STEPS, log: bool = True) -> torch.nn.Module:
    """An AutoencoderKL, 4x8x8 latents of 64x64 images: mean squared error and a little of the KL divergence."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(**FORM)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(model.parameters(), LR, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    images, _ = load_fashion("train")
    order = np.random.Generator(np.random.Philox(0))
    for step in range(steps):
        x = _unit(images[order.integers(len(images), size=BATCH)])
        posterior = model.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        error = (model.decode(posterior.sample()).sample - x).square().mean()  # pyright: ignore[reportAttributeAccessIssue]
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        (error + KL_WEIGHT * divergence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if log and step % 20 == 0:
            print(f"step {step}: error {error.item():.5f}, KL {divergence.item():.3f} a latent value", flush=True)
    return model.eval()


def _unit(images: np.ndarray) -> Tensor:
    """uint8 [N, 16, 16] -> float32 [N, 3, 64, 64] in [-1, 1]."""
    large = np.stack([np.asarray(enlarge(image)) for image in images])
    return torch.from_numpy(large)[:, None].repeat(1, 3, 1, 1).float() / 127.5 - 1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m scaling.data.small_vae", description="train the small VAE")
    parser.add_argument("--to", type=Path, required=True, help="new folder")
    to = parser.parse_args().to
    model = train()
    with atomic_folder(to) as folder:
        model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]


if __name__ == "__main__":
    main()
