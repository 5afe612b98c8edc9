"""Images to shards by an encoder that is a formula: `trigscale data pack`."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import sched_getaffinity
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipeline.cifar import is_cifar, load_cifar
from data_pipeline.images import LabelledImages, load_images
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.pictures import centre_crop, pixels, read_picture
from data_pipeline.sources.find import find_source
from data_pipeline.sources.source import Source
from models.encoders import Encoder
from scaling.data.sources import pack_images


@dataclass
class Pictures:
    """The images of a source as one would index an array uint8 [N, H, W, C], read when they are asked for.

    side: they are resized and cropped to it; None: all have one size. counts: kinds of images that were converted.
    """

    source: Source
    channels: int
    side: int | None
    counts: Counter[str] = field(default_factory=Counter)
    first: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        with ThreadPoolExecutor(len(sched_getaffinity(0))) as threads:
            found = list(threads.map(self._read, range(*part.indices(len(self)))))
        for image, counts in found:
            self.counts.update(counts)
            self.first = self.first or image.shape
        for number, (image, _) in enumerate(found, start=part.start or 0):
            if image.shape != self.first:
                raise DataError(
                    f"{self.source.where(number)} is {_size(image.shape)}, but {self.source.where(0)} is "
                    f"{_size(self.first)}: bring all to one size, or give --size"
                )
        return np.stack([image for image, _ in found])

    def _read(self, number: int) -> tuple[npt.NDArray[np.uint8], Counter[str]]:
        where, counts = self.source.where(number), Counter[str]()
        image = read_picture(self.source.read(number), where, counts)
        return pixels(image if self.side is None else centre_crop(image, self.side), self.channels, where), counts


def pack(path: Path, encoder: Encoder, to: Path, side: int | None) -> tuple[Manifest, np.ndarray, Counter[str]]:
    """Shards of the images at a path: the manifest, the labels int64 [N], and kinds of images that were converted.

    Raises DataError, EncoderError or OSError, naming the file.
    """
    if path.suffix == ".npz" or is_cifar(path):
        found = load_cifar(path) if is_cifar(path) else load_images(path)
        images = found.images if side is None else _resized(found, side)
        names = found.class_names
        manifest = pack_images(images, found.labels, encoder, to, path.stem, found.num_classes, names)
        return manifest, found.labels, Counter()
    source = find_source(path)
    pictures = Pictures(source, encoder.takes[2], side)
    manifest = pack_images(pictures, source.labels, encoder, to, source.dataset, source.num_classes, source.class_names)
    return manifest, source.labels, pictures.counts


def _resized(found: LabelledImages, side: int) -> npt.NDArray[np.uint8]:
    channels = found.images.shape[3]
    images = (Image.fromarray(image if channels == 3 else image[..., 0]) for image in found.images)
    return np.stack([pixels(centre_crop(image, side), channels, "") for image in images])


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
