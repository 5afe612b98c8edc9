"""samples/steps-N.npz: the samples of a run, and whose they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError
from scaling.run.image_file import ImageFile, add_array, add_images

REAL = "held-out images"
VERIFIED = 256  # images at once


@dataclass(frozen=True)
class Samples:
    """Images uint8 [N, H, W, C], labels int64 [N], and what made them: "METHOD-SIZE-HASH, N steps"."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    made_by: str

    def to_npz(self) -> bytes:
        """An .npz file."""
        buffer = io.BytesIO()
        write_npz(buffer, iter([self.images]), self.images.shape, self.labels, self.made_by)
        return buffer.getvalue()


def write_npz(
    target: IO[bytes],
    batches: Iterator[np.ndarray],
    shape: tuple[int, ...],
    labels: np.ndarray,
    made_by: str,
    seeds: np.ndarray | None = None,
) -> None:
    """An .npz file of images uint8 of `shape` [N, H, W, C], which come in batches, with labels and maker."""
    with zipfile.ZipFile(target, "w") as archive:
        add_array(archive, "labels", labels)
        add_array(archive, "made_by", np.array(made_by))
        if seeds is not None:
            add_array(archive, "seeds", seeds)
        add_images(archive, batches, shape)


def maker(run: str, steps: int) -> str:
    """What stands in the samples of a run."""
    return f"{run}, {steps} steps"


def open_samples(path: Path, made_by: str) -> tuple[ImageFile, npt.NDArray[np.int64]]:
    """The images as a stream, and the labels, of what that maker wrote. DataError: damaged, foreign, or another's."""
    labels, maker = load_arrays(path, "labels", "made_by")
    images = ImageFile.open(path)
    if labels.shape != (images.count,) or labels.dtype != np.int64:
        raise DataError(f"{path}: labels is {labels.dtype} {list(labels.shape)}, expected int64 [{images.count}]")
    if str(maker) != made_by:
        raise DataError(f"{path}: holds the samples of {str(maker)!r:.80}, not of {made_by!r}")
    return images, labels


def verify_samples(path: Path, made_by: str) -> bool:
    """Read all of what that maker wrote, a batch at a time, and its checksums. DataError as in `open_samples`."""
    images, _ = open_samples(path, made_by)
    return sum(len(batch) for batch in images.batches(VERIFIED)) == images.count


def read_samples(path: Path, made_by: str, most: int | None = None) -> Samples:
    """The first `most` of what that maker wrote, None for all. DataError as in `open_samples`."""
    images, labels = open_samples(path, made_by)
    count = images.count if most is None else min(most, images.count)
    return Samples(next(images.batches(count)), labels[:count], made_by)
