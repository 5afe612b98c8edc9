"""A user's own images: an .npz file, or a folder with one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.arrays import load_arrays
from data_pipeline.manifest import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = ("L", "RGB")  # 8-bit grey and 8-bit colour


def load_images(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 [N, H, W, C], labels int64 [N] and class names, all in memory.

    An .npz file holds `images`, uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels, and `labels`, integers [N] from
    0; its classes are named by their numbers. In a folder, each subfolder is a class, labelled in sorted order, and
    holds PNG or JPEG files of one size, all 8-bit grey or all 8-bit RGB, taken in sorted order. Hidden files are
    passed over.

    Raises:
        DataError: anything else; names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither a folder nor an .npz file: give one of them")
    return _load_npz(path)


def _load_npz(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    images, labels = load_arrays(path, "images", "labels")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0 or images.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: images is {images.dtype} {list(images.shape)}, "
            "expected uint8 [N, H, W] or [N, H, W, C] with C = 1 or 3"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
        raise DataError(
            f"{path}: labels is {labels.dtype} {list(labels.shape)}, expected {len(images)} integers, none below 0"
        )
    labels = labels.astype(np.int64)
    return images, labels, tuple(map(str, range(labels.max() + 1)))


def _load_folder(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    classes = [entry for entry in _visible(path) if entry.is_dir()]
    if not classes:
        raise DataError(f"{path} has no subfolders: put the images of each class into a subfolder of its name")
    files = [(file, label) for label, folder in enumerate(classes) for file in _class_files(folder)]
    first = _read_image(files[0][0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for position, (file, _) in enumerate(files):
        image = _read_image(file)
        if image.shape != first.shape:
            raise DataError(
                f"{file} is {_size(image)}, but {files[0][0]} is {_size(first)}: bring all to one size and mode"
            )
        images[position] = image
    return images, np.array([label for _, label in files], np.int64), tuple(folder.name for folder in classes)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


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
