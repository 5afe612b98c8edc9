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

    decoder: of their latents; None where the encoder is a formula. Of moments the mean is decoded. opened: a reader of
    the folder; None for a plain one. lenient: without those that cannot be read, which else are a DataError.
    """

    folder: Path
    places: np.ndarray | None = None
    decoder: Decoder | None = None
    opened: LatentReader | None = None
    lenient: bool = False

    @cached_property
    def reader(self) -> LatentReader:
        """The shards, opened."""
        return self.opened or LatentReader(self.folder)

    @property
    def count(self) -> int:
        """How many there are, whether they can be read or not."""
        return len(self.reader) if self.places is None else len(self.places)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        blank = torch.zeros(1, *self.reader.manifest.latent_shape)
        height, width, channels = self._decoder.latents(blank).shape[1:]
        return height, width, channels

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return self.reader.labels if self.places is None else self.reader.labels[self.places]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in order. DataError."""
        places = np.arange(len(self.reader)) if self.places is None else self.places
        channels = self.reader.manifest.latent_shape[0]
        for start in range(0, len(places), size):
            numbers = places[start : start + size]
            rows, whole = self.reader.rows(len(numbers)), np.ones(len(numbers), bool)
            for row, error in self.reader.read_into(rows, numbers).items():
                if not self.lenient:
                    raise error
                whole[row] = False
            if whole.any():
                yield self._decoder.latents(torch.from_numpy(rows.array[whole, :channels]).float()).numpy()

    @cached_property
    def _decoder(self) -> Decoder:
        """The one that was given, or that of the encoder; EncoderError where that is a VAE."""
        return self.decoder or open_decoder(get_encoder(self.reader.manifest.encoder), None, torch.device("cpu"))
