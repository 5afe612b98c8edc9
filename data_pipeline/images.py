"""A user's own images in an .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.arrays import load_arrays
from data_pipeline.labels import require_labels
from data_pipeline.pixels import require_full_range, require_images


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, H, W, C] and labels int64 [N] of 0 to num_classes - 1; class_names, if they have any."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None = None


def load_images(path: Path) -> LabelledImages:
    """All images of an .npz file: `images`, uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels, and `labels`,
    integers [N] from 0; its classes have no names.

    Raises:
        DataError: anything else; names the file.
    """
    images, labels = load_arrays(path, "images", "labels")
    images = require_images(images, str(path))
    require_full_range(images, str(path))
    labels = require_labels(labels, len(images), str(path))
    return LabelledImages(images, labels, int(labels.max()) + 1)
