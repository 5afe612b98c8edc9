"""Images that are drawn as they are judged, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from models.encoders import get_encoder
from scaling.methods.guidance import Network
from scaling.run.spec import RunSpec
from scaling.sampling.draw import Draw
from scaling.sampling.generate import draw_images, labels_of


@dataclass(frozen=True)
class Drawn:
    """The samples of a network with these seeds int64 [N], classes in turn or those chosen."""

    spec: RunSpec
    network: Network
    draw: Draw
    seeds: np.ndarray
    device: torch.device
    classes: tuple[int, ...] | None = None
    guide: Network | None = None
    stop: Callable[[], bool] = lambda: False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.seeds)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        config = self.spec.network_config()
        blank = torch.zeros(1, config.latent_channels, config.resolution, config.resolution, device=self.device)
        height, width, channels = get_encoder(self.spec.data.encoder).to_images(blank).shape[1:]
        return height, width, channels

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in the order of the seeds."""
        labels = labels_of(self.seeds, self.spec.network_config().num_classes, self.classes)
        made = draw_images(
            self.spec, self.network, self.draw, self.seeds, labels, self.device, self.stop, guide=self.guide
        )
        for _, images in made:
            for start in range(0, len(images), size):
                yield images[start : start + size]
