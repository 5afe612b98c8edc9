"""What a space of features is to whoever judges by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from data_pipeline.errors import UserError
from scaling.config.metrics import SpaceName


class SpaceError(UserError):
    """A network that is not there, or images that it does not take; the message names both and the remedy."""


class Images(Protocol):
    """Images as a stream, which can be begun anew: nobody holds all of them."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in order."""
        ...


@runtime_checkable
class Divisible(Images, Protocol):
    """Images of which a rank makes its own alone, where they are dear to make."""

    def share(self, rank: int, size: int) -> Images:
        """The images of one of `size` ranks; those of all ranks, one after the other, are all images."""
        ...


@dataclass(frozen=True)
class Outputs:
    """Features float32 [B, D], and the probabilities float32 [B, K] of a network that classifies, for IS."""

    features: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class About:
    """What a space is: its name, its features' number, the network and the SHA-256 of its weights, the resize mode."""

    space: SpaceName
    size: int
    network: str
    sha256: str
    resize: str | None = None


class Space(Protocol):
    """A network that makes features of images."""

    @property
    def about(self) -> About:
        """What it is."""
        ...

    def require(self, shape: tuple[int, ...]) -> None:
        """SpaceError unless it takes images of this height, width and number of channels."""
        ...

    def outputs(self, images: np.ndarray) -> Outputs:
        """The outputs of images uint8 [B, H, W, C]."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images uint8 [N, H, W, C] that are in memory."""

    array: np.ndarray

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.array.shape[1:]
        return height, width, channels

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in order."""
        for start in range(0, len(self.array), size):
            yield self.array[start : start + size]
