"""Features of images as they stream past: nobody holds more than a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest

import numpy as np

from data_pipeline.manifest import DataError
from scaling.errors import Interrupted
from scaling.evaluation.moments import Moments, require_finite
from scaling.evaluation.spaces.space import Images, Outputs, Space
from scaling.training.sharding.world import World

BATCH = 500  # images a pass; of large ones as many as hold as many pixels as 500 of 64 x 64


@dataclass(frozen=True)
class Extracted:
    """Features float32 [N, D] of all images, and the probabilities float32 [N, K] of a network that classifies."""

    features: np.ndarray
    probabilities: np.ndarray | None


def batch_of(shape: tuple[int, int, int]) -> int:
    """Images a pass."""
    return max(1, min(BATCH, BATCH * 64 * 64 // (shape[0] * shape[1])))


def extract(
    space: Space, images: Images, should_stop: Callable[[], bool] = lambda: False, world: World | None = None
) -> Extracted:
    """The outputs of all images; the ranks of a world take batches in turn, and each gets all outputs (collective).

    A batch is the same whoever takes it, so any number of ranks makes what one makes. SpaceError for images that the
    space does not take, DataError for features that are not finite, Interrupted.
    """
    space.require(images.shape)
    rank, size = (world.rank, world.size) if world else (0, 1)
    own: list[Outputs] = []
    done = largest = 0
    for number, batch in enumerate(images.batches(batch_of(images.shape))):
        if should_stop():
            raise Interrupted(f"stopped while evaluating, at image {done} of {images.count}")
        largest = max(largest, int(batch.max()))
        if number % size == rank:
            own.append(space.outputs(batch))
            _finite(own[-1].features, done)
        done += len(batch)
    if largest == 1:
        raise DataError("images holds 0 and 1 alone, expected 0 to 255: multiply by 255 before the cast")
    parts = own if world is None or size == 1 else _in_turn(world.gathered(own))
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Extracted(
        np.concatenate([part.features for part in parts]), np.concatenate(probabilities) if probabilities else None
    )


def _in_turn(shares: list[list[Outputs]]) -> list[Outputs]:
    """The batches of all ranks in their order: each rank's first, then each one's second, and so on."""
    return [part for turn in zip_longest(*shares) for part in turn if part is not None]


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
