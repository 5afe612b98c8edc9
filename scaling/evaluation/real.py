"""The side of the real images in one space of features: what samples are judged against, and the floors at N."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError
from scaling.config.metrics import Metric
from scaling.evaluation.extract import Extracted, extract, moments_of
from scaling.evaluation.frechet import Reference
from scaling.evaluation.judge import Settings, judge
from scaling.evaluation.spaces.space import About, Images, Space

REAL_GRID = 100  # real images kept for the report


@dataclass(frozen=True)
class Real:
    """Statistics of `count` real images, and what `samples` held-out ones score by each metric (floors).

    about: the space. features: float32 [M, D] of single real images, where a metric compares with those.
    """

    about: About
    reference: Reference
    count: int
    samples: int
    floors: dict[str, float]
    features: np.ndarray | None = None

    def to_bytes(self, name: str) -> bytes:
        """An .npz file; its name stands in it, so that it cannot be taken for another's."""
        buffer = io.BytesIO()
        facts = {"about": asdict(self.about), "count": self.count, "samples": self.samples, "floors": self.floors}
        np.savez(
            buffer,
            mean=self.reference.mean,
            covariance=self.reference.covariance,
            features=np.zeros((0, 0), np.float32) if self.features is None else self.features,
            facts=np.array(json.dumps(facts)),
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
            mean, covariance, features, text, said = load_arrays(
                path, "mean", "covariance", "features", "facts", "name"
            )
            facts = json.loads(str(text))
            real = cls(
                about=About(**facts["about"]),
                reference=Reference(mean, covariance),
                count=int(facts["count"]),
                samples=int(facts["samples"]),
                floors={str(key): float(value) for key, value in facts["floors"].items()},
                features=features if features.size else None,
            )
            real.check()
            if name is not None and str(said) != name:
                raise ValueError(f"it is {str(said)!r:.80}")
        except (DataError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}: is not a whole file of real statistics ({error}): name the reference-*.npz of a study; "
                "a damaged one is made again where it is deleted and the study launched"
            ) from error
        return real

    def sha256(self) -> str:
        """The hash of mean and covariance, however they are stored."""
        parts = (
            np.ascontiguousarray(part, np.float64).tobytes()
            for part in (self.reference.mean, self.reference.covariance)
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def check(self) -> None:
        """ValueError where the numbers cannot be those of real images."""
        size = self.about.size
        self.reference.distance_to(np.zeros(size), np.eye(size))  # D, and an indefinite covariance
        bad = {key: value for key, value in self.floors.items() if not np.isfinite(value)}
        bad |= {key: value for key, value in self.floors.items() if key.startswith("f") and not value > 0}
        if bad or self.samples < 0 or (self.floors and self.samples < 2):
            raise ValueError(f"the floor is {next(iter(bad.values()), '?')} at N = {self.samples}")
        if self.features is not None and self.features.shape[1:] != (size,):
            raise ValueError(f"its features are {list(self.features.shape)}, expected [M, {size}]")


@dataclass(frozen=True)
class Some:
    """The images of another stream at some places, in order."""

    images: Images
    places: np.ndarray

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.images.shape

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C] at most `size` at a time; `places` must rise."""
        first = 0
        for batch in self.images.batches(size):
            chosen = self.places[(self.places >= first) & (self.places < first + len(batch))] - first
            if len(chosen):
                yield batch[chosen]
            first += len(batch)


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
    return in_turn(labels)[:count]


def in_turn(labels: np.ndarray) -> np.ndarray:
    """Indices [N] of all labels [N]: the first of each class, then the second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(labels)) - np.repeat(begins, np.diff(np.r_[begins, len(labels)]))
    return order[np.lexsort((ordered, rank))]


def real_statistics(
    space: Space, metrics: Sequence[Metric], train: Images, held_out: Images, settings: Settings
) -> Real:
    """The reference over all training images, and the floors of the held-out ones, all of which are taken.

    Metrics that compare with single real images take as many training images as there are held-out ones, evenly spaced.
    """
    moments = moments_of(space, train)
    features = None
    if any(metric.needs_real_features for metric in metrics):
        places = np.linspace(0, train.count - 1, min(held_out.count, train.count)).round().astype(int)
        features = extract(space, Some(train, places)).features
    real = Real(space.about, Reference(*moments.statistics()), moments.count, held_out.count, {}, features)
    return real_floors(real, metrics, extract(space, held_out), settings)


def real_floors(real: Real, metrics: Sequence[Metric], held_out: Extracted, settings: Settings) -> Real:
    """The same with what held-out images score."""
    floors = {metric.name: judge(metric, held_out, real, settings, error=False).value for metric in metrics}
    return Real(real.about, real.reference, real.count, real.samples, floors, real.features)
