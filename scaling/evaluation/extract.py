"""Features of images as they stream past: nobody holds more than a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from data_pipeline.manifest import DataError
from scaling.errors import Interrupted
from scaling.evaluation.moments import Moments, require_finite
from scaling.evaluation.spaces.space import Images, Outputs, Space

BATCH = 500  # images a pass; of large ones as many as hold as many pixels as 500 of 64 x 64


@dataclass(frozen=True)
class Extracted:
    """Features float32 [N, D] of all images, and the probabilities float32 [N, K] of a network that classifies."""

    features: np.ndarray
    probabilities: np.ndarray | None


def batch_of(shape: tuple[int, int, int]) -> int:
    """Images a pass."""
    return max(1, min(BATCH, BATCH * 64 * 64 // (shape[0] * shape[1])))


def extract(space: Space, images: Images, should_stop: Callable[[], bool] = lambda: False) -> Extracted:
    """The outputs of all images. SpaceError for images that the space does not take, DataError for features that are
    not finite, Interrupted."""
    space.require(images.shape)
    parts: list[Outputs] = []
    done = 0
    for batch in images.batches(batch_of(images.shape)):
        if should_stop():
            raise Interrupted(f"stopped while evaluating, at image {done} of {images.count}")
        parts.append(space.outputs(batch))
        _finite(parts[-1].features, done)
        done += len(batch)
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Extracted(
        np.concatenate([part.features for part in parts]), np.concatenate(probabilities) if probabilities else None
    )


def moments_of(space: Space, images: Images) -> Moments:
    """Mean and squares of the features of any number of images, in the memory of a batch. Errors as in `extract`."""
    space.require(images.shape)
    done, parts = 0, list[Moments]()
    for batch in images.batches(batch_of(images.shape)):
        features = space.outputs(batch).features
        _finite(features, done)
        done += len(batch)
        parts.append(Moments.of(features))
        if len(parts) > 1:
            parts = [reduce(Moments.joined, parts)]
    return parts[0]


def _finite(features: np.ndarray, first: int) -> None:
    try:
        require_finite(features, first)
    except ValueError as error:
        raise DataError(str(error)) from error
