"""The images of shards as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.vae import Decoder, open_decoder


@dataclass(frozen=True)
class ShardImages:
    """The images of a folder of shards as a stream: decoded as they are asked for, all or those at `places`.

    decoder: of their latents; None where the encoder is a formula. Of moments the mean is decoded.
    """

    folder: Path
    places: np.ndarray | None = None
    decoder: Decoder | None = None

    @cached_property
    def reader(self) -> LatentReader:
        """The shards, opened."""
        return LatentReader(self.folder)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.reader) if self.places is None else len(self.places)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self._decode(np.zeros(1, np.int64)).shape[1:]
        return height, width, channels

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return self.reader.labels if self.places is None else self.reader.labels[self.places]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in order. DataError."""
        places = np.arange(len(self.reader)) if self.places is None else self.places
        for start in range(0, len(places), size):
            yield self._decode(places[start : start + size])

    def _decode(self, places: np.ndarray) -> np.ndarray:
        latents, _ = self.reader.read(places)
        channels = self.reader.manifest.latent_shape[0]
        return self._decoder.latents(torch.from_numpy(latents[:, :channels]).float()).numpy()

    @cached_property
    def _decoder(self) -> Decoder:
        """The one that was given, or that of the encoder; EncoderError where that is a VAE."""
        return self.decoder or open_decoder(get_encoder(self.reader.manifest.encoder), None, torch.device("cpu"))
