"""FD-fashion: the Frechet distance of generated images to the training images in the features of a small classifier.

It is not FID: other features, other data. Values compare only at one number of samples N, and each is reported with N
and with the floor: the distance of N held-out real images to the same training images.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError
from data_pipeline.pixels import require_images
from scaling.evaluation.classifier import FEATURES, extract_features, load_classifier
from scaling.evaluation.frechet import Reference, bootstrap_distances

METRIC = "fd-fashion"
TAKES = (16, 16, 1)  # height, width, channels
REAL_GRID = 100  # real images kept for the report
BATCH = 500


@dataclass(frozen=True)
class Real:
    """The side of the real images: the reference of all distances, and the floor at N samples."""

    reference: Reference
    floor: float
    samples: int

    def to_bytes(self, name: str) -> bytes:
        """An .npz file; its name stands in it, so that it cannot be taken for another's."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            mean=self.reference.mean,
            covariance=self.reference.covariance,
            floor=np.float64(self.floor),
            samples=np.int64(self.samples),
            name=np.array(name),
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, name: str | None = None) -> Real:
        """Read what `to_bytes` wrote, under that name if one is given.

        Raises:
            DataError: it is no such file, or its numbers cannot be those of real images; names file and remedy.
        """
        try:
            keys = ("mean", "covariance", "floor", "samples", "name")
            mean, covariance, floor, samples, said = load_arrays(path, *keys)
            reference = Reference(mean, covariance)
            reference.distance_to(np.zeros(FEATURES), np.eye(FEATURES))  # D, and an indefinite covariance
            if floor.shape or samples.shape or not 0 <= floor < np.inf or not samples >= 1:
                raise ValueError(f"the floor is {floor} at N = {samples}")
            if name is not None and str(said) != name:
                raise ValueError(f"it is {str(said)!r:.80}")
        except (DataError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}: is not a whole file of real statistics ({error}): name the reference-*.npz of a study; "
                "a damaged one is made again where it is deleted and the study launched"
            ) from error
        return cls(reference, float(floor), int(samples))


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices [count] whose labels go 0, 1, ..., K-1, 0, 1, ..., each class in the order of the data.

    Raises DataError where a class has too few.
    """
    classes = int(labels.max()) + 1
    needed = -(-count // classes)
    present, counts = np.unique(labels, return_counts=True)
    held = dict(zip(present.tolist(), counts.tolist(), strict=True))
    for c in range(classes):  # ends at the first that is absent: one label may be huge
        if held.get(c, 0) < needed:
            remedy = "lower evaluation.samples" if c in held else "add some, or leave the class out of the training set"
            raise DataError(f"class {c} has {held.get(c, 0)} held-out images, {needed} are needed: {remedy}")
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    return np.array([members[i % classes][i // classes] for i in range(count)])


def image_features(images: np.ndarray) -> np.ndarray:
    """Features [N, 64] of images uint8 [N, 16, 16, 1]; DataError for anything else, with the remedy."""
    images = require_images(images, METRIC)
    if images.shape[1:] != TAKES:
        takes, given = ("x".join(map(str, shape)) for shape in (TAKES, images.shape[1:]))
        raise DataError(
            f"evaluation.metric: {METRIC} judges images of {takes} (grey), these are {given}: set it to a metric that "
            f"takes them (`trigscale study keys` lists what there is), or use images of {takes}"
        )
    return extract_features(load_classifier("cpu"), images[..., 0], batch=BATCH, device="cpu")


def real_statistics(train: np.ndarray, held_out: np.ndarray, labels: np.ndarray, samples: int) -> Real:
    """The reference over all training images, and the floor of `samples` held-out ones with balanced classes."""
    reference = Reference.from_features(image_features(train))
    chosen = balanced(labels, samples)
    return Real(reference, reference.distance(image_features(held_out[chosen])), samples)


def score(images: np.ndarray, real: Real, resamples: int, seed: int) -> dict[str, Any]:
    """`fd` of images uint8 [N, H, W, C] and `replicates`: its values under resampling of the images.

    Raises DataError where N is not the number that the floor was measured with, or the images are not to be judged.
    """
    features = image_features(images)
    if len(images) != real.samples:
        raise DataError(
            f"{len(images):,} images, but the floor was measured with {real.samples:,}, and distances compare at one N "
            f"only: give {real.samples:,} images, or a reference at N = {len(images):,}, which a study with "
            f"evaluation.samples={len(images)} writes"
        )
    replicates = bootstrap_distances(features, real.reference, resamples, seed)
    return {"fd": real.reference.distance(features), "replicates": replicates.tolist()}
