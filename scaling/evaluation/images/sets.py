"""Sets of images as streams, whoever made them: a folder, a zip, tar files, an .npz, shards.

A batch is decoded at a time. All images of a set have one size and one mode; the first that has not is named.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.manifest import DataError
from data_pipeline.text import shown, what_is
from scaling.evaluation.images.shards import ShardImages
from scaling.evaluation.spaces.space import Images
from scaling.run.image_file import ImageFile

SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAYS = ("images", "arr_0")  # ours, and ADM's
THREADS = 4

Read = Callable[[Sequence[str]], Iterator[bytes]]


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
        return _open_tars([path])
    what = what_is(path) or "not known"
    raise DataError(f"{path}: is {what}: give a folder of PNG or JPEG files, a .zip or .tar of them, an .npz or shards")


@dataclass(frozen=True)
class Encoded:
    """PNG and JPEG files by their names in a container, decoded by a few threads as they are asked for."""

    where: Path
    names: tuple[str, ...]
    read: Read

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the first, which all others share."""
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = next(iter(self._decoded(self.names[:1]))).shape
        return height, width, channels

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C], at most `size` at a time, in the order of their names. DataError names the image."""
        for start in range(0, len(self.names), size):
            names = self.names[start : start + size]
            batch = np.empty((len(names), *self.shape), np.uint8)
            for place, (name, image) in enumerate(zip(names, self._decoded(names), strict=True)):
                if image.shape != self.shape:
                    raise DataError(
                        f"{self._named(name)} is {_size(image.shape)}, but {self._named(self.names[0])} is "
                        f"{_size(self.shape)}: bring all to one size and mode"
                    )
                batch[place] = image
            yield batch

    def _decoded(self, names: Sequence[str]) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(self._decode, names, self.read(names))

    def _decode(self, name: str, data: bytes) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                mode, pixels = image.mode, np.asarray(image)
        except Exception as error:  # damaged images raise OSError, SyntaxError, struct.error, DecompressionBombError
            raise DataError(
                f"{self._named(name)} cannot be read as an image ({error}): remove it or make it again"
            ) from error
        if mode not in ("L", "RGB"):
            raise DataError(f"{self._named(name)} has mode {mode}, expected L or RGB: convert it to 8-bit grey or RGB")
        return pixels.reshape(*pixels.shape[:2], -1)

    def _named(self, name: str) -> str:
        return str(self.where / name) if self.where.is_dir() else f"{self.where}: {shown(name)}"


def _open_folder(path: Path) -> Images:
    if (path / "manifest.json").is_file():
        return ShardImages(path)
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if names:
        return Encoded(path, tuple(names), lambda chosen: ((path / name).read_bytes() for name in chosen))
    if tars := sorted(path.glob("*.tar")):
        return _open_tars(tars)
    raise DataError(f"{path}: holds no PNG or JPEG files, no .tar files of them, and no shards")


def _open_npz(path: Path) -> Images:
    held: set[str] = set()
    if zipfile.is_zipfile(path):  # of what is no archive ImageFile says what it is
        with zipfile.ZipFile(path) as archive:
            held.update(archive.namelist())
    array = next((name for name in ARRAYS if f"{name}.npy" in held), ARRAYS[0])
    return ImageFile.open(path, array)


def _open_zip(path: Path) -> Images:
    with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else _no_archive(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
    if not names:
        raise DataError(f"{path}: holds no PNG or JPEG files")

    def read(chosen: Sequence[str]) -> Iterator[bytes]:
        with zipfile.ZipFile(path) as archive:
            for name in chosen:
                try:
                    yield archive.read(name)
                except zipfile.BadZipFile as error:
                    raise DataError(f"{path}: {shown(name)}: {error}: the archive is damaged, make it again") from error

    return Encoded(path, tuple(names), read)


def _no_archive(path: Path) -> zipfile.ZipFile:
    raise DataError(f"{path}: is {what_is(path) or 'no zip archive, or a damaged one'}")


def _open_tars(paths: Sequence[Path]) -> Images:
    """Image members by their place in the files: reading one is a seek."""
    places: dict[str, tuple[Path, int, int]] = {}
    for path in paths:
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isfile() and member.name.lower().endswith(SUFFIXES):
                        places[f"{path.name}/{member.name}"] = (path, member.offset_data, member.size)
        except tarfile.TarError as error:
            raise DataError(f"{path}: cannot be read as a tar file ({error}): make or copy it again") from error
    if not places:
        raise DataError(f"{paths[0]}: holds no PNG or JPEG files")

    def read(chosen: Sequence[str]) -> Iterator[bytes]:
        for name in chosen:
            path, offset, size = places[name]
            with path.open("rb") as stream:
                stream.seek(offset)
                yield stream.read(size)

    return Encoded(paths[0].parent, tuple(places), read)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
