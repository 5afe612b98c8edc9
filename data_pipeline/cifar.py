"""CIFAR's binary files: records of label bytes (one, of CIFAR-100 coarse and fine) and 3 x 32 x 32 pixel bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.images import LabelledImages
from data_pipeline.manifest import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
# Label bytes a record, and the file beside it that names the classes.
FORMS = {10: (1, "batches.meta.txt"), 100: (2, "fine_label_names.txt")}
TRAINING = ("data_batch_*.bin", "train.bin")


def is_cifar(path: Path) -> bool:
    """Whether a path is one of CIFAR's files, or the folder of them; DataError for the version that is pickles."""
    pickles = ((path / "data_batch_1").is_file(), (path / "train").is_file() and (path / "meta").is_file())
    if path.is_dir() and any(pickles):
        raise DataError(
            f"{path} holds pickles, which are not read: take CIFAR's binary version "
            "(cifar-10-binary.tar.gz, cifar-100-binary.tar.gz)"
        )
    return path.suffix == ".bin" or (path.is_dir() and any(path.glob("*.bin")))


def load_cifar(path: Path) -> LabelledImages:
    """The images of one file, or of all training files of a folder, as uint8 [N, 32, 32, 3]; labels are the fine ones.

    Raises DataError for files of another length, and labels that are none.
    """
    files = [path] if path.is_file() else sorted(file for form in TRAINING for file in path.glob(form))
    if not files:
        raise DataError(f"{path} holds no data_batch_*.bin or train.bin: name one file, such as {path}/test_batch.bin")
    folder = files[0].parent
    classes = 100 if (folder / FORMS[100][1]).exists() or files[0].name in ("train.bin", "test.bin") else 10
    label_bytes, names_file = FORMS[classes]
    records = np.concatenate([_records(file, label_bytes, classes) for file in files])
    labels = records[:, label_bytes - 1].astype(np.int64)
    images = records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return LabelledImages(images, labels, classes, _names(folder / names_file, classes))


def _records(file: Path, label_bytes: int, classes: int) -> np.ndarray:
    data, size = np.fromfile(file, np.uint8), label_bytes + PIXELS
    if not data.size or data.size % size:
        raise DataError(
            f"{file} has {data.size:,} bytes, expected a multiple of {size:,}, a record of CIFAR-{classes}, whose "
            "binary files are the only .bin files that are read: download it again where it is one"
        )
    records = data.reshape(-1, size)
    if (largest := records[:, label_bytes - 1].max()) >= classes:
        raise DataError(f"{file}: holds label {largest}, expected 0 to {classes - 1}: is it CIFAR-{classes}?")
    return records


def _names(file: Path, classes: int) -> tuple[str, ...] | None:
    """The names of the classes; None where their file is missing."""
    if not file.exists():
        return None
    names = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    if len(names) != classes:
        raise DataError(f"{file} has {len(names)} names, expected {classes}: download it again")
    return names
