"""The command `ruler train`: a small network on the user's own images, and what it sees of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import make_parents, write_bytes_atomic
from data_pipeline.labels import require_same_classes
from data_pipeline.manifest import DataError
from scaling.evaluation.extract import extract, moments_of
from scaling.evaluation.frechet import Reference
from scaling.evaluation.images.shards import ShardImages
from scaling.evaluation.real import in_turn
from scaling.evaluation.spaces.small import FEATURES, Ruler, Sight, SmallSpace, ruler_bytes
from scaling.evaluation.spaces.space import ArrayImages
from scaling.evaluation.spaces.train_small import TURNS, accuracy, train

MOST = 2**31  # bytes of training images that are held; of more, every second, third, ... is taken
SEEN = 5000  # held-out images by which its sight is measured, at most

log = logging.getLogger(__name__)


def train_ruler(shards: Path, held_out: Path, to: Path, epochs: int, seed: int) -> Ruler:
    """Train on the images of `shards`, measure on those of `held_out`, and write the file `to`.

    DataError where images are missing, of other classes or sizes, or cannot be turned where there are no classes.
    """
    images, others = ShardImages(shards), ShardImages(held_out)
    manifest = images.reader.manifest
    require_same_classes(manifest, others.reader.manifest, str(held_out))
    if images.shape != others.shape:
        raise DataError(f"{held_out}: its images are {list(others.shape)}, those of {shards} {list(images.shape)}")
    rotations = manifest.num_classes < 2
    if rotations and images.shape[0] != images.shape[1]:
        raise DataError(
            f"{shards}: has one class, and its images are not square: give classes, for quarter turns need that"
        )
    if others.count < 2 * FEATURES:
        raise DataError(f"{held_out}: holds {others.count} images: {2 * FEATURES} at least say what the network sees")
    make_parents(to)
    classes = TURNS if rotations else manifest.num_classes
    pixels, labels = _held(images)
    network = train(pixels, labels, classes, epochs, seed, rotations=rotations)
    height, width, channels = images.shape
    plain = Ruler(
        height=height,
        width=width,
        channels=channels,
        classes=classes,
        rotations=rotations,
        dataset=manifest.dataset,
        content_sha256=manifest.content_sha256,
    )
    ruler = _with_sight(plain, SmallSpace("own", network.eval(), plain, "", "cpu"), images, others)
    write_bytes_atomic(to, ruler_bytes(network, ruler))
    return ruler


def _held(images: ShardImages) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in memory, evenly thinned where they are too many."""
    each = int(np.prod(images.shape))
    places = np.arange(0, images.count, max(1, -(-images.count * each // MOST)))
    if len(places) < images.count:
        log.warning("%s: %d of %d images are trained on", images.folder, len(places), images.count)
    chosen = ShardImages(images.folder, places)
    return np.concatenate(list(chosen.batches(1000))), chosen.labels


def _with_sight(ruler: Ruler, space: SmallSpace, images: ShardImages, others: ShardImages) -> Ruler:
    """The ruler with its floor, and the distances of altered held-out images."""
    reference = Reference(*moments_of(space, images).statistics())
    places = in_turn(others.labels)[:SEEN]
    chosen = ShardImages(others.folder, places)
    pixels = np.concatenate(list(chosen.batches(1000)))

    def distance(altered: np.ndarray) -> float:
        return reference.distance(extract(space, ArrayImages(altered)).features)

    floor = distance(pixels)
    seen = [(name, distance(altered)) for name, altered in alterations(pixels, chosen.labels)]
    return ruler.model_copy(
        update={
            "accuracy": None if ruler.rotations else accuracy(space.network, pixels, chosen.labels),
            "samples": len(pixels),
            "floor": floor,
            "sight": tuple(Sight(altered=name, distance=value, floors=value / floor) for name, value in seen),
        }
    )


def alterations(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names of what a ruler should see, and the images uint8 [N, H, W, C] so altered, N each."""
    random = np.random.Generator(np.random.Philox(0))
    for deviation in (0.05, 0.1, 0.2):
        noise = 255 * deviation * random.standard_normal(images.shape, np.float32)
        yield f"noise of {deviation}", np.rint(images + noise).clip(0, 255).astype(np.uint8)
    yield "3x3 blur", blurred(images)
    yield "shifted by a pixel", np.roll(images, 1, axis=2)
    yield "10 % darker", np.rint(0.9 * images).astype(np.uint8)
    for left_out in np.unique(labels)[:3] if len(np.unique(labels)) > 1 else ():
        kept = np.flatnonzero(labels != left_out)
        yield f"without class {left_out}", images[np.resize(kept, len(images))]
    yield "1 in 10 unique", np.repeat(images[::10], 10, axis=0)[: len(images)]
    yield "black", np.zeros_like(images)


def blurred(images: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels, what lies outside being black."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    made = torch.nn.functional.avg_pool2d(x, 3, 1, 1).round().clamp(0, 255)
    return made.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
