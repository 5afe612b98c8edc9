"""From a network to images: whatever is sampled goes through here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.network import NetworkConfig
from models.trigflow import SIGMA_DATA
from models.vae import Decoder
from scaling.errors import Interrupted
from scaling.methods.ends import flow_times, segment_times
from scaling.methods.guidance import Network, guided, guided_by
from scaling.run.randomness import derive_seed, normals
from scaling.run.spec import RunSpec
from scaling.sampling.decode import run_decoder
from scaling.sampling.draw import Draw, draw_of
from scaling.sampling.samplers import sample_ddim, sample_student, sample_teacher, sample_walk


def labels_of(seeds: np.ndarray, classes: int, chosen: tuple[int, ...] | None = None) -> np.ndarray:
    """The labels int64 [N] of seeds [N]: the classes, or the chosen ones, in turn; -1 without classes."""
    if not classes:
        return np.full(len(seeds), -1)
    return seeds % classes if chosen is None else np.array(chosen)[seeds % len(chosen)]


def generate(
    spec: RunSpec,
    network: Network,
    steps: int,
    count: int,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    vae: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images uint8 [count, H, W, C] and labels int64 [count] of a run, as its sampling says.

    For so few that they can be held. Sample number i starts from the same noise and label in every run with one
    sampling seed. Raises as `draw_images`.
    """
    seeds = np.arange(count)
    labels = labels_of(seeds, spec.network_config().num_classes)
    drawn = draw_images(spec, network, draw_of(spec, steps), seeds, labels, device, should_stop, vae=vae)
    return np.concatenate([images for _, images in drawn]), labels


@torch.no_grad()
def draw_images(
    spec: RunSpec,
    network: Network,
    draw: Draw,
    seeds: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
    guide: Network | None = None,
    vae: Path | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions [B] among the seeds int64 [N] and their images uint8 [B, H, W, C], a pass at a time.

    An image depends on its seed and label alone: every pass has `draw.batch` samples, the last one by repetition, for
    kernels add in another order where a batch has another size. guide: the network of autoguidance.
    vae: the folder of the VAE that decodes, where the run's encoder is one.

    Raises Interrupted, and EncoderError at once where the VAE is missing or another's.
    """
    config = spec.network_config()
    decoder = run_decoder(spec.data, vae, device)
    size = draw.batch
    for first in range(0, len(seeds), size):
        if should_stop():
            raise Interrupted(f"stopped while sampling, at image {first} of {len(seeds)}")
        places = np.arange(first, min(first + size, len(seeds)))
        padded = np.resize(places, size)
        images = _images(config, decoder, network, draw, seeds[padded], labels[padded], device, guide)
        yield places, images[: len(places)]


def _images(
    config: NetworkConfig,
    decoder: Decoder,
    network: Network,
    draw: Draw,
    seeds: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    guide: Network | None,
) -> np.ndarray:
    return decoder.samples(draw_latents(config, network, draw, seeds, labels, device, guide)).numpy()


@torch.no_grad()
def draw_latents(
    config: NetworkConfig,
    network: Network,
    draw: Draw,
    seeds: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    guide: Network | None = None,
) -> Tensor:
    """The normalised latents [N, C, H, W] of the samples with these seeds and labels int64 [N], in one pass."""
    f = _velocity(network, draw, torch.from_numpy(labels).to(device), config.guidance, guide)
    shape = (config.latent_channels, config.resolution, config.resolution)
    noise = partial(noise_of, draw.seed, seeds, shape, device)
    if draw.sampler == "student":
        x = sample_student(f, noise("sample"), noise("renoise"), draw.steps, draw.intermediate_t)
    elif draw.sampler == "segments":
        x = sample_walk(lambda x, t, to: f(x, t), noise("sample"), segment_times(draw.steps))
    elif draw.sampler == "flow_map":
        x = sample_walk(lambda x, t, to: f(x, t, to=to), noise("sample"), flow_times(draw.steps, draw.intermediate_t))
    else:
        x = (sample_teacher if draw.sampler == "heun" else sample_ddim)(f, noise("sample"), draw.steps)
    return x


def noise_of(seed: int, seeds: np.ndarray, shape: tuple[int, int, int], device: torch.device, purpose: str) -> Tensor:
    """N(0, sigma_data^2) noise [N, C, H, W] of the samples with these seeds, drawn for runs of consecutive ones."""
    width = shape[0] * shape[1] * shape[2]
    key = derive_seed(seed)
    ends = [0, *(np.flatnonzero(np.diff(seeds) != 1) + 1), len(seeds)]
    parts = [normals(key, purpose, int(seeds[a]), b - a, width, device) for a, b in pairwise(ends)]
    return SIGMA_DATA * torch.cat(parts).reshape(len(seeds), *shape)


def _velocity(
    network: Network, draw: Draw, labels: Tensor, takes_guidance: bool, guide: Network | None
) -> Callable[..., Tensor]:
    """F for these labels with guidance: as an input of a student, by two evaluations of a teacher, or by another's."""
    strength = torch.full(labels.shape, float(draw.guidance), device=labels.device)
    if takes_guidance:
        return partial(network, labels=labels, guidance=strength)
    if draw.guidance == 1:
        return partial(network, labels=labels)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        if draw.guidance_sigma is not None:
            sigma = float(SIGMA_DATA * t[0].double().tan())
            if not draw.guidance_sigma[0] < sigma <= draw.guidance_sigma[1]:
                return network(x, t, labels)
        if guide is not None:
            return guided_by(guide, network, x, t, labels, strength)
        return guided(network, x, t, labels, strength)

    return velocity


def zero_network(
    x: Tensor, t: Tensor, labels: Tensor, *, guidance: Tensor | None = None, to: Tensor | None = None
) -> Tensor:
    """The network before training: its output gain starts at zero, so F is exactly zero."""
    return torch.zeros_like(x)
