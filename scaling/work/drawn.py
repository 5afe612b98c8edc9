"""Images that are drawn as they are judged, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scaling.methods.guidance import Network
from scaling.run.spec import RunSpec
from scaling.sampling.draw import Draw
from scaling.sampling.generate import draw_images, labels_of, run_decoder


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
    vae: Path | None = None
    stop: Callable[[], bool] = lambda: False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.seeds)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        config = self.spec.network_config()
        blank = torch.zeros(1, config.latent_channels, config.resolution, config.resolution, device=self.device)
        height, width, channels = run_decoder(self.spec.data, self.vae, self.device).samples(blank).shape[1:]
        return height, width, channels

    def share(self, rank: int, size: int) -> Drawn:
        """Those of one of `size` ranks: whole passes, so that the images come in the same batches for any number."""
        passes = -(-self.count // self.draw.batch)
        first, last = (passes * each // size * self.draw.batch for each in (rank, rank + 1))
        return replace(self, seeds=self.seeds[first:last])

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in the order of the seeds."""
        labels = labels_of(self.seeds, self.spec.network_config().num_classes, self.classes)
        made = draw_images(
            self.spec, self.network, self.draw, self.seeds, labels, self.device, self.stop, self.guide, self.vae
        )
        for _, images in made:
            for start in range(0, len(images), size):
                yield images[start : start + size]
