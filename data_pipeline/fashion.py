"""The embedded data set: Fashion-MNIST at 16x16 grey, vendored under `assets/fashion/`.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747) is MIT-licensed, (c) 2017 Zalando SE: see
`assets/fashion/LICENSE.txt`. `data_pipeline.build_fashion` made the vendored files and says how the
images were reduced.
"""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipeline.manifest import DataError

ASSETS = Path(__file__).parent / "assets" / "fashion"
SIDE = 16
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Packed:
    """One vendored array: raw uint8 in C order inside xz. The hash is of the decoded bytes, not of the file."""

    name: str
    shape: tuple[int, ...]
    sha256: str


PACKED: dict[Split, tuple[Packed, Packed]] = {
    "train": (
        Packed(
            "train-images.u8.xz",
            (60_000, SIDE, SIDE),
            "d80b33965a4d6d22912865a0019141433a01bbe65b4ec7578a792b030b857a1f",
        ),
        Packed("train-labels.u8.xz", (60_000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"),
    ),
    "test": (
        Packed(
            "test-images.u8.xz",
            (10_000, SIDE, SIDE),
            "a69a7514991ace9e4fc6d2a42d0c73bf35c34e60f5f83fdd0cabbc989417c84c",
        ),
        Packed("test-labels.u8.xz", (10_000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"),
    ),
}


def load_fashion(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 16, 16] (0 is the background) and labels uint8 [N] in 0..9 of one split.

    `train` has 60,000 samples and `test` 10,000, in the order of the original files, 6,000 and 1,000 of each class.

    Raises:
        DataError: a vendored file is missing or its content is not the expected one; names the file.
    """
    images, labels = PACKED[split]
    return _unpack(images), _unpack(labels)


def _unpack(packed: Packed) -> np.ndarray:
    path = ASSETS / packed.name
    remedy = "restore it from the repository, or rebuild it: python -m data_pipeline.build_fashion --help"
    try:
        data = lzma.decompress(path.read_bytes(), format=lzma.FORMAT_XZ)
    except (OSError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({error}): {remedy}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != packed.sha256:
        raise DataError(f"{path} holds content with SHA-256 {digest}, expected {packed.sha256}: {remedy}")
    return np.frombuffer(bytearray(data), np.uint8).reshape(packed.shape)
