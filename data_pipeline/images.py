"""A user's own images: an .npz file, or a folder with one subfolder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.arrays import load_arrays
from data_pipeline.labels import class_order, require_labels
from data_pipeline.manifest import DataError
from data_pipeline.pixels import require_full_range, require_images
from data_pipeline.text import is_safe, shown

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = ("L", "RGB")  # 8-bit grey and 8-bit colour


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, H, W, C] and labels int64 [N] of 0 to num_classes - 1; class_names, if they have any."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None = None


def load_images(path: Path) -> LabelledImages:
    """All images of an .npz file or a folder, in memory.

    An .npz file holds `images`, uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels, and `labels`, integers [N] from
    0; its classes have no names. In a folder, each subfolder is a class, labelled in the order of their names (as
    numbers where all are whole numbers), and holds PNG or JPEG files of one size, all 8-bit grey or all 8-bit RGB,
    taken in sorted order. Hidden files are passed over.

    Raises:
        DataError: anything else; names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither a folder nor an .npz file: give one of them")
    images, labels = load_arrays(path, "images", "labels")
    images = require_images(images, str(path))
    require_full_range(images, str(path))
    labels = require_labels(labels, len(images), str(path))
    return LabelledImages(images, labels, int(labels.max()) + 1)


def load_samples(path: Path) -> np.ndarray:
    """The `images` of an .npz file that others made, uint8 [N, H, W, C], labels or none. DataError names the file."""
    images = require_images(load_arrays(path, "images")[0], str(path))
    require_full_range(images, str(path))
    return images


def _load_folder(path: Path) -> LabelledImages:
    classes = class_order([entry.name for entry in _visible(path) if entry.is_dir()])
    if not classes:
        raise DataError(f"{path} has no subfolders: put the images of each class into a subfolder of its name")
    files = [(file, label) for label, name in enumerate(classes) for file in _class_files(path / name)]
    first = _read_image(files[0][0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for position, (file, _) in enumerate(files):
        image = _read_image(file)
        if image.shape != first.shape:
            raise DataError(
                f"{file} is {_size(image)}, but {files[0][0]} is {_size(first)}: bring all to one size and mode"
            )
        images[position] = image
    return LabelledImages(images, np.array([label for _, label in files], np.int64), len(classes), tuple(classes))


def _visible(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if not is_safe(entry.name):
            raise DataError(f"{folder} holds {shown(entry.name)}, a name with control characters: rename it")
    return entries


def _class_files(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise DataError(f"{folder} holds no images: add some or remove the folder")
    for file in files:
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            raise DataError(f"{file} is not an image file: a class folder holds {', '.join(SUFFIXES)} files alone")
    return files


def _read_image(file: Path) -> np.ndarray:
    """uint8 [H, W, C] of one file."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # damaged images raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"{file} cannot be read as an image ({error})") from error
    if mode not in MODES:
        raise DataError(f"{file} has mode {mode}, expected {' or '.join(MODES)}: convert it to 8-bit grey or RGB")
    return pixels.reshape(*pixels.shape[:2], -1)


def _size(image: np.ndarray) -> str:
    return "x".join(map(str, image.shape))
