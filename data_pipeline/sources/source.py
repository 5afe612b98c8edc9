"""Encoded image files with labels, wherever they lie: in a folder, a zip, or tars, each found by its place."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.labels import LARGEST
from data_pipeline.manifest import DataError
from data_pipeline.text import is_safe, shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Pictures that are not read: refused by name, since a set without them would be another.
OTHER_PICTURES = (
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2", ".j2k", ".jpe", ".jfif", ".avif", ".heic"),
    *(".heif", ".jxl", ".tga", ".exr"),
)
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")  # folders that are no classes
OWN_FILE, STORED, DEFLATED = 0, 1, 2  # how an image lies in its container
NO_CRC = -1


@dataclass
class Found:
    """What a reader of one layout collects, image by image."""

    names: list[str] = field(default_factory=list)
    container: list[int] = field(default_factory=list)
    method: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    crc: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(
        self,
        name: str,
        label: int,
        *,
        container: int = 0,
        method: int = OWN_FILE,
        offset: int = 0,
        size: int = 0,
        crc: int = NO_CRC,
    ) -> None:
        """One image; crc: the CRC-32 of its bytes, where the container says it. DataError for a name that a terminal
        would obey.
        """
        if not is_safe(name):
            raise DataError(f"the image name {shown(name)} holds control characters: rename it")
        self.names.append(name)
        self.container.append(container)
        self.method.append(method)
        self.offset.append(offset)
        self.size.append(size)
        self.crc.append(crc)
        self.labels.append(label)


@dataclass(frozen=True)
class Source:
    """N encoded images in the order of the samples, with labels int64 [N] of 0 to num_classes - 1.

    files: the containers (a folder, a zip, tars). names: each image's path inside its container. Reading is safe from
    many threads at once, since no state is shared.
    """

    dataset: str
    files: tuple[str, ...]
    names: Sequence[str]
    places: np.ndarray  # int64 [N, 5]: container, method, offset, bytes, CRC-32
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.names)

    def where(self, number: int) -> str:
        """The image in words: its file, or its container and its name there."""
        container, method = self.places[number, :2].tolist()
        file = self.files[container]
        return str(Path(file) / self.names[number]) if method == OWN_FILE else f"{file}: {self.names[number]}"

    def read(self, number: int) -> bytes:
        """The bytes of an image file. DataError names it where they cannot be had."""
        container, method, offset, size, crc = self.places[number].tolist()
        try:
            if method == OWN_FILE:
                return (Path(self.files[container]) / self.names[number]).read_bytes()
            with Path(self.files[container]).open("rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
            if len(data) == size:
                image = data if method == STORED else zlib.decompress(data, -zlib.MAX_WBITS)
                if crc not in (NO_CRC, zlib.crc32(image)):
                    raise DataError(f"{self.where(number)} is damaged: its checksum is another; copy the file again")
                return image
        except (OSError, zlib.error) as error:
            raise DataError(f"{self.where(number)} cannot be read ({error})") from error
        raise DataError(f"{self.where(number)} is cut off: {len(data)} of {size} bytes are left")

    def digest(self) -> str:
        """SHA-256 over names, places, labels and classes: whether two lists are one."""
        total = hashlib.sha256("\n".join([*self.names, "", *(self.class_names or ())]).encode())
        for array in (self.places, self.labels, np.int64(self.num_classes)):
            total.update(np.ascontiguousarray(array, "<i8").tobytes())
        return total.hexdigest()


def build(
    dataset: str, files: Sequence[Path], found: Found, class_names: Sequence[str] | None, num_classes: int | None = None
) -> Source:
    """A source from what was found. DataError where there is nothing, or a label is out of range."""
    if not found.names:
        raise DataError(f"{files[0]} holds no images: {', '.join(SUFFIXES)} files are looked for")
    labels = np.array(found.labels, np.int64)
    if labels.min() < 0 or labels.max() > LARGEST:
        raise DataError(f"{files[0]}: holds labels {labels.min()} to {labels.max()}, expected 0 to {LARGEST}")
    places = np.array([found.container, found.method, found.offset, found.size, found.crc], np.int64).T
    names = None if class_names is None else tuple(class_names)
    count = num_classes or (len(names) if names is not None else int(labels.max()) + 1)
    return Source(dataset, tuple(str(path.resolve()) for path in files), found.names, places, labels, count, names)


def is_image(name: str, where: str) -> bool:
    """Whether a name ends as that of an image file does. DataError, naming `where`, for pictures that are not read."""
    suffix = Path(name).suffix.lower()
    if suffix in OTHER_PICTURES:
        raise DataError(f"{where} is a picture of a kind that is not read: convert it to PNG, or remove it")
    return suffix in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether any part of a path begins with a dot, or is what an operating system leaves in folders and zips."""
    return any(part.startswith(".") or part.lower() in LEFT_BY_SYSTEMS for part in Path(name).parts)


def is_hidden_member(name: str) -> bool:
    """`is_hidden` of a member of an archive, where `..` leads out and hides nothing: whoever reads it refuses it."""
    return is_hidden(name.replace("..", "__"))


def require_classes(classes: Sequence[str], where: str) -> None:
    """DataError where the folders that should be classes are the parts of a set (train, val, test)."""
    if len(classes) > 1 and all(name.lower() in SPLITS for name in classes):
        raise DataError(
            f"{where} holds {' and '.join(classes)}, which are parts of a set and no classes: give one of them, each "
            "to a folder of shards of its own"
        )
