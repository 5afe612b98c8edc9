"""From a trained checkpoint to images: the stage between training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.trigflow import SIGMA_DATA
from scaling.config.sections import StudentRecipe
from scaling.errors import Interrupted
from scaling.methods.guidance import Network, guided
from scaling.run.randomness import derive_seed, normals
from scaling.run.spec import RunSpec
from scaling.sampling.decode import run_decoder
from scaling.sampling.samplers import Velocity, sample_student, sample_teacher


def sample_labels(first: int, count: int, classes: int) -> Tensor:
    """Labels of samples number first .. first + count - 1: 0, 1, ..., K-1, 0, 1, ... (-1 without classes)."""
    return torch.arange(first, first + count) % classes if classes else torch.full((count,), -1)


@torch.no_grad()
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
    """Images uint8 [count, H, W, C] and labels int64 [count] by `network`, guided as the run's sampling says.

    Sample number i starts from the same noise and label in every run with one sampling seed. vae: the folder of the VAE
    that decodes, where the run's encoder is one. Raises Interrupted, and EncoderError at once where it is another's.
    """
    config, sampling = spec.network_config(), spec.sampling
    decoder = run_decoder(spec.data, vae, device)
    shape = (config.latent_channels, config.resolution, config.resolution)
    images: list[np.ndarray] = []
    for first in range(0, count, sampling.batch):
        if should_stop():
            raise Interrupted(f"stopped while sampling, at image {first} of {count}")
        size = min(sampling.batch, count - first)
        labels = sample_labels(first, size, config.num_classes).to(device)
        x = _sample(spec, _velocity(spec, network, labels, steps), steps, (first, size, shape), device)
        images.append(decoder.samples(x).numpy())
    return np.concatenate(images), sample_labels(0, count, config.num_classes).numpy()


def _velocity(spec: RunSpec, network: Network, labels: Tensor, steps: int) -> Velocity:
    """F for these labels with the run's guidance: by two evaluations of a teacher, as an input of a student."""
    sampling = spec.sampling
    if isinstance(spec.recipe, StudentRecipe):
        if spec.recipe.guidance is None:
            return lambda x, t: network(x, t, labels)
        strength = torch.full(labels.shape, sampling.student_guidance[steps], device=labels.device)
        return partial(network, labels=labels, guidance=strength)
    if sampling.teacher_guidance == 1:
        return lambda x, t: network(x, t, labels)
    strength = torch.full(labels.shape, sampling.teacher_guidance, device=labels.device)
    return partial(guided, network, labels=labels, strength=strength)


def _sample(
    spec: RunSpec, f: Velocity, steps: int, where: tuple[int, int, tuple[int, int, int]], device: torch.device
) -> Tensor:
    """Samples number first .. first + size - 1 as the network makes them, [size, C, H, W]."""
    (first, size, shape), sampling = where, spec.sampling
    width = shape[0] * shape[1] * shape[2]

    def noise(purpose: str) -> Tensor:
        return SIGMA_DATA * normals(derive_seed(sampling.seed), purpose, first, size, width, device).reshape(
            size, *shape
        )

    if spec.method == "teacher":
        return sample_teacher(f, noise("sample"), steps)
    return sample_student(f, noise("sample"), noise("renoise"), steps, sampling.intermediate_t)


def untrained(spec: RunSpec, steps: int, count: int, device: torch.device, *, vae: Path | None = None) -> np.ndarray:
    """Images of the network before training: its output gain starts at zero, so F is exactly zero."""

    def zero(x: Tensor, t: Tensor, labels: Tensor, *, guidance: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)

    return generate(spec, zero, steps, count, device, vae=vae)[0]
