"""samples/steps-N.npz: the samples of a run, and whose they are."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError
from data_pipeline.pixels import require_images

REAL = "held-out images"


@dataclass(frozen=True)
class Samples:
    """Images uint8 [N, H, W, C], labels int64 [N], and what made them: "METHOD-SIZE-HASH, N steps"."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    made_by: str

    def to_npz(self) -> bytes:
        """An .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=self.images, labels=self.labels, made_by=np.array(self.made_by))
        return buffer.getvalue()


def maker(run: str, steps: int) -> str:
    """What stands in the samples of a run."""
    return f"{run}, {steps} steps"


def read_samples(path: Path, made_by: str) -> Samples:
    """What `Samples.to_npz` wrote for that maker. DataError: damaged, foreign, or the samples of another."""
    images, labels, maker = load_arrays(path, "images", "labels", "made_by")
    images = require_images(images, str(path))
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise DataError(f"{path}: labels is {labels.dtype} {list(labels.shape)}, expected int64 [{len(images)}]")
    if str(maker) != made_by:
        raise DataError(f"{path}: holds the samples of {str(maker)!r:.80}, not of {made_by!r}")
    return Samples(images, labels, made_by)
