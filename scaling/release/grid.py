"""The picture of samples on a card: drawn from seeds and settings in config.json, so that it can be drawn again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.release import GRID, ModelError
from models.trigflow import TrigFlowNet
from scaling.config.sections import Sampling
from scaling.run.spec import RunSpec
from scaling.sampling.draw import draw_of
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import draw_images, labels_of
from scaling.sampling.pictures import COLUMNS, LEAST, to_png
from scaling.weights.folder import Grid

IMAGES = 20  # for each number of steps
NEAR = 1  # levels of 255 by which a pixel may differ, as other processors round
SHARE = 0.01  # of pixels that may differ by more

Pixels = npt.NDArray[np.uint8]


def grid_facts(spec: RunSpec | None) -> Grid:
    """What the picture will show: for each number of steps the images of the first seeds, classes in turn.

    spec: None for imported weights, which are sampled as a teacher is by default.
    """
    sampling = spec.sampling if spec else Sampling()
    steps = [*sampler_steps(spec)] if spec else [sampling.teacher_steps]
    return Grid(steps=tuple(steps), images=IMAGES, columns=COLUMNS, noise_seed=sampling.seed)


def draw_grid(spec: RunSpec, network: TrigFlowNet, facts: Grid, vae: Path | None) -> Pixels:
    """The images uint8 [steps x images, H, W, C], those of each number of steps after each other."""
    device = next(network.parameters()).device
    seeds = np.arange(facts.images)
    labels = labels_of(seeds, spec.network_config().num_classes)
    parts = []
    for steps in facts.steps:
        # All in one pass: kernels add in another order where a batch has another size.
        draw = replace(draw_of(spec, steps), seed=facts.noise_seed, batch=facts.images)
        parts += [made for _, made in draw_images(spec, network, draw, seeds, labels, device, vae=vae)]
    return np.concatenate(parts)


def grid_png(images: Pixels, facts: Grid) -> bytes:
    """The picture: rows of images, small ones enlarged by a whole factor."""
    factor = _factor(images)
    return to_png(images.repeat(factor, axis=1).repeat(factor, axis=2), facts.columns)


def compare_grid(folder: Path, images: Pixels, facts: Grid) -> dict[str, Any]:
    """How far images that were drawn again are from the picture in the folder. ModelError where it is another picture.

    At most SHARE of the pixels may differ by more than NEAR levels of 255.
    """
    from PIL import Image, UnidentifiedImageError

    path = folder / GRID
    expected = np.asarray(Image.open(io.BytesIO(grid_png(images, facts)))).astype(int)
    try:
        there = np.asarray(Image.open(path)).astype(int)
    except (OSError, UnidentifiedImageError) as error:
        raise ModelError(f"{path}: cannot be read as a picture ({error}): restore it") from error
    if there.shape != expected.shape:
        raise ModelError(f"{path}: is {list(there.shape)}, the samples make {list(expected.shape)}: another picture")
    difference = np.abs(there - expected)
    far = float((difference > NEAR).mean())
    if far > SHARE:
        raise ModelError(
            f"{path}: {far:.1%} of its pixels differ by more than {NEAR} of 255 from what the weights draw: it is "
            "another network's picture, or this machine computes otherwise"
        )
    return {"identical": not difference.any(), "largest_difference": int(difference.max()), "far_pixels": far}


def _factor(images: Pixels) -> int:
    return -(-LEAST // min(images.shape[1:3]))
