"""Features of images as they stream past: nobody holds more than a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.manifest import DataError
from scaling.errors import Interrupted, explain
from scaling.evaluation.moments import Moments, require_finite
from scaling.evaluation.spaces.space import Divisible, Images, Outputs, Space
from scaling.training.sharding.world import World

T = TypeVar("T")
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
    """The outputs of all images; the ranks of a world share them, and each gets all outputs (collective).

    A batch is the same whoever takes it, so any number of ranks makes what one makes. SpaceError for images that the
    space does not take, DataError for features that are not finite, Interrupted. What fails on one rank fails on all.
    """
    space.require(images.shape)

    def outputs(batch: np.ndarray, first: int) -> tuple[Outputs, int]:
        made = space.outputs(batch)
        _finite(made.features, first)
        return made, int(batch.max())

    found = _shared(images, world, outputs, should_stop)
    if max(largest for _, largest in found) == 1:
        raise DataError("images holds 0 and 1 alone, expected 0 to 255: multiply by 255 before the cast")
    probabilities = [part.probabilities for part, _ in found if part.probabilities is not None]
    return Extracted(
        np.concatenate([part.features for part, _ in found]), np.concatenate(probabilities) if probabilities else None
    )


def moments_of(space: Space, images: Images, world: World | None = None) -> Moments:
    """Mean and squares of the features of any number of images, in the memory of a batch.

    The ranks of a world share the images, and each gets the moments of all (collective): summed in float64, they are
    those of one process but for the order of the sum. Errors as in `extract`.
    """
    space.require(images.shape)
    own: list[Moments] = []

    def add(batch: np.ndarray, first: int) -> None:
        features = space.outputs(batch).features
        _finite(features, first)
        own[:] = [reduce(Moments.joined, [*own, Moments.of(features)])]

    _shared(images, world, add)
    shares = [own] if world is None else world.gathered(own)
    return reduce(Moments.joined, [one for share in shares for one in share])


def _shared(
    images: Images,
    world: World | None,
    work: Callable[[np.ndarray, int], T],
    should_stop: Callable[[], bool] = lambda: False,
) -> list[T]:
    """What `work` makes of every batch and the number of its first image, on all ranks in the order of the images.

    An error of a user's on one rank is told to all before any of them goes on, which would wait for it.
    """
    if world is None or world.size == 1:
        return [work(batch, first) for first, batch in _counted(images, should_stop)]
    own, error = list[T](), None
    try:
        own = [work(batch, first) for first, batch in _of_rank(images, world, should_stop)]
    except (UserError, OSError) as raised:
        error = raised
    shares = world.gathered((own, None if error is None else explain(error)))
    if error is not None:
        raise error
    for rank, (_, told) in enumerate(shares):
        if told is not None:
            raise DataError(f"rank {rank}: {told}")
    parts = [part for part, _ in shares]
    return [*chain(*parts)] if isinstance(images, Divisible) else _in_turn(parts)


def _counted(images: Images, should_stop: Callable[[], bool], before: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The batches, each with the number of its first image, of which there are `before` others. Interrupted."""
    first = before
    for batch in images.batches(batch_of(images.shape)):
        if should_stop():
            raise Interrupted(f"stopped while evaluating, at image {first - before} of {images.count}")
        yield first, batch
        first += len(batch)


def _of_rank(images: Images, world: World, should_stop: Callable[[], bool]) -> Iterator[tuple[int, np.ndarray]]:
    """The batches of this rank: its share of images that are dear to make, every size-th batch of others."""
    if isinstance(images, Divisible):
        before = sum(images.share(rank, world.size).count for rank in range(world.rank))
        return _counted(images.share(world.rank, world.size), should_stop, before)
    return islice(_counted(images, should_stop), world.rank, None, world.size)


def _in_turn(shares: list[list[T]]) -> list[T]:
    """The batches of all ranks in their order: each rank's first, then each one's second, and so on."""
    places = range(max(map(len, shares)))
    return [share[place] for place in places for share in shares if place < len(share)]


def _finite(features: np.ndarray, first: int) -> None:
    try:
        require_finite(features, first)
    except ValueError as error:
        raise DataError(str(error)) from error
