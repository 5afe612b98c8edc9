"""FD-fashion: the Frechet distance of generated images to the training images in the features of a small classifier.

It is not FID: other features, other data. Values compare only at one number of samples N, and each is reported with N
and with the floor: the distance of N held-out real images to the same training images.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.manifest import DataError
from scaling.evaluation.classifier import extract_features, load_classifier
from scaling.evaluation.frechet import Reference, bootstrap_distances

METRIC = "fd-fashion"
REAL_GRID = 100  # real images kept for the report
BATCH = 500


@dataclass(frozen=True)
class Real:
    """The side of the real images: the reference of all distances, and the floor at N samples."""

    reference: Reference
    floor: float
    samples: int

    def to_bytes(self) -> bytes:
        """An .npz file."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            mean=self.reference.mean,
            covariance=self.reference.covariance,
            floor=np.float64(self.floor),
            samples=np.int64(self.samples),
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Real:
        """Read what `to_bytes` wrote; DataError names the file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                reference = Reference(file["mean"], file["covariance"])
                return cls(reference, float(file["floor"]), int(file["samples"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: is not a whole file of real statistics ({error}): delete it and run again"
            ) from error


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices [count] whose labels go 0, 1, ..., K-1, 0, 1, ..., each class in the order of the data.

    Raises DataError where a class has too few.
    """
    classes = int(labels.max()) + 1
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    needed = -(-count // classes)
    for c, found in enumerate(members):
        if len(found) < needed:
            raise DataError(
                f"class {c} has {len(found)} held-out images, {needed} are needed: lower evaluation.samples"
            )
    return np.array([members[i % classes][i // classes] for i in range(count)])


def image_features(images: np.ndarray) -> np.ndarray:
    """Features [N, 64] of images uint8 [N, 16, 16, 1]; DataError for another shape."""
    if images.shape[1:] != (16, 16, 1):
        raise DataError(f"{METRIC} judges images of 16x16x1, these are {'x'.join(map(str, images.shape[1:]))}")
    return extract_features(load_classifier("cpu"), images[..., 0], batch=BATCH, device="cpu")


def real_statistics(train: np.ndarray, held_out: np.ndarray, labels: np.ndarray, samples: int) -> Real:
    """The reference over all training images, and the floor of `samples` held-out ones with balanced classes."""
    reference = Reference.from_features(image_features(train))
    chosen = balanced(labels, samples)
    return Real(reference, reference.distance(image_features(held_out[chosen])), samples)


def score(images: np.ndarray, real: Real, resamples: int, seed: int) -> dict[str, Any]:
    """`fd` of images uint8 [N, H, W, C] and `replicates`: its values under resampling of the images.

    Raises DataError where N is not the number that the floor was measured with.
    """
    if len(images) != real.samples:
        raise DataError(f"{len(images)} images, but the floor is of {real.samples}: one study uses one N")
    features = image_features(images)
    replicates = bootstrap_distances(features, real.reference, resamples, seed)
    return {"fd": real.reference.distance(features), "replicates": replicates.tolist()}
