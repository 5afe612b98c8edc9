"""Sets of images as streams, whoever made them: a folder, a zip, tar files, an .npz, shards.

A batch is decoded at a time. All images of a set have one size and one mode; the first that has not is named.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_pipeline.manifest import DataError
from data_pipeline.pictures import GREY, read_picture
from data_pipeline.sources.source import STORED, Found, Source, build, is_hidden, is_hidden_member, is_image
from data_pipeline.sources.tars import open_tar
from data_pipeline.sources.zips import members_of, open_zip, places_of
from data_pipeline.text import shown, what_is
from scaling.evaluation.images.shards import ShardImages
from scaling.evaluation.spaces.space import Images
from scaling.run.image_file import ImageFile

ARRAYS = ("images", "arr_0")  # ours, and ADM's
THREADS = 4


def open_images(path: Path) -> Images:
    """The images at a path. DataError names it where there are none, or none that are known."""
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".npz":
        return _open_npz(path)
    if path.suffix == ".zip":
        return _open_zip(path)
    if path.suffix == ".tar":
        return _open_tars(path, [path])
    what = what_is(path) or "not known"
    raise DataError(
        f"{path}: is {what}: give a folder of PNG, JPEG or WebP files, a .zip or .tar of them, an .npz or shards"
    )


@dataclass(frozen=True)
class Encoded:
    """Image files in a container, as `data pack` reads them too, decoded by a few threads as they are asked for.

    What must be converted to be seen (palettes, transparency, 16 bits, CMYK, EXIF's orientation, animations) is
    refused: others judge such files by other pixels.
    """

    path: Path
    source: Source

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the first, which all others share."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = self._decode(0).shape
        return height, width, channels

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in the order of their names. DataError names the image."""
        for start in range(0, self.count, size):
            numbers = range(start, min(start + size, self.count))
            batch = np.empty((len(numbers), *self.shape), np.uint8)
            with ThreadPoolExecutor(THREADS) as pool:
                for number, image in zip(numbers, pool.map(self._decode, numbers), strict=True):
                    if image.shape != self.shape:
                        raise DataError(
                            f"{self.source.where(number)} is {_size(image.shape)}, but {self.source.where(0)} is "
                            f"{_size(self.shape)}: bring all to one size and mode"
                        )
                    batch[number - start] = image
            yield batch

    def _decode(self, number: int) -> np.ndarray:
        where, counts = self.source.where(number), Counter[str]()
        image = read_picture(self.source.read(number), where, counts)
        if kinds := [kind for kind in counts if kind != GREY]:
            raise DataError(f"{where} is not plain ({', '.join(kinds)}): convert it to 8-bit grey or RGB")
        array = np.asarray(image)
        return array.reshape(*array.shape[:2], -1)


def _open_folder(path: Path) -> Images:
    if (path / "manifest.json").is_file():
        return ShardImages(path)
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    found = Found()
    for name in files:
        if not is_hidden(name) and is_image(name, str(path / name)):
            found.add(name, 0)
    if found.names:
        return Encoded(path, build(path.name, [path], found, None))
    if tars := sorted(path.glob("*.tar")):
        return _open_tars(path, tars)
    raise DataError(f"{path}: holds no PNG, JPEG or WebP files, no .tar files of them, and no shards")


def _open_npz(path: Path) -> Images:
    held: set[str] = set()
    if zipfile.is_zipfile(path):  # of what is no archive ImageFile says what it is
        with zipfile.ZipFile(path) as archive:
            held.update(archive.namelist())
    array = next((name for name in ARRAYS if f"{name}.npy" in held), ARRAYS[0])
    return ImageFile.open(path, array)


def _open_zip(path: Path) -> Images:
    with open_zip(path) as archive:
        members = sorted(members_of(path, archive), key=lambda member: member.filename)
    images = [member for member in members if is_image(member.filename, f"{path}: {shown(member.filename)}")]
    if not images:
        raise DataError(f"{path}: holds no PNG, JPEG or WebP files")
    return Encoded(path, places_of(path, images, {member.filename: 0 for member in images}, None))


def _open_tars(where: Path, paths: Sequence[Path]) -> Images:
    """Image members by their place in the files: reading one is a seek."""
    found = Found()
    for container, path in enumerate(paths):
        with open_tar(path) as archive:
            for member in archive:
                if not member.isfile() or is_hidden_member(member.name):
                    continue
                if is_image(member.name, f"{path}: {shown(member.name)}"):
                    place = {"container": container, "offset": member.offset_data, "size": member.size}
                    found.add(member.name, 0, method=STORED, **place)
    if not found.names:
        raise DataError(f"{paths[0]}: holds no PNG, JPEG or WebP files")
    return Encoded(where, build(where.stem, paths, found, None))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
