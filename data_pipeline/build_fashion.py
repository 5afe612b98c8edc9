"""Build the vendored Fashion-MNIST files from the four original idx files (Debian: package dataset-fashion-mnist).

    python -m data_pipeline.build_fashion --to DIR     write the files to DIR, which must be empty or absent
    python -m data_pipeline.build_fashion --check      rebuild and compare byte for byte with the vendored files

Reduction: the 28x28 image is padded with 2 zeros on each side to 32x32, and each 2x2 block becomes its mean, rounded
half up to uint8, so (a + b + c + d + 2) // 4.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from data_pipeline.fashion import ASSETS, PACKED, SIDE, Split
from data_pipeline.files import atomic_folder, write_bytes_atomic, write_text_atomic
from data_pipeline.manifest import DataError

DEBIAN_SOURCE = Path("/usr/share/datasets/fashion-mnist")
ORIGINAL_NAMES: dict[Split, str] = {"train": "train", "test": "t10k"}
ORIGINAL_SIDE = 28
IMAGES_MAGIC = 0x00000803  # idx: unsigned bytes, three dimensions
LABELS_MAGIC = 0x00000801  # idx: unsigned bytes, one dimension
SUMS = "SHA256SUMS.txt"

# xz rather than deflate: a sixth smaller (9.4 MB against 7.9), and the bytes that deflate level 9 gives depend on the
# zlib that Python was built with (zlib, zlib-ng, Cloudflare's and Intel's forks all differ), while liblzma is the one
# xz encoder in use (5.4 and 5.8 gave the same bytes). No preset, since presets may change their meaning; pb=4 because
# an image row has 16 bytes. Raw bytes inside: the .npy header is numpy's to change.
XZ_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 1 << 24,
        "lc": 4,
        "lp": 0,
        "pb": 4,
        "mode": lzma.MODE_NORMAL,
        "nice_len": 273,
        "mf": lzma.MF_BT4,
        "depth": 512,
    }
]


def read_idx(path: Path, magic: int, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array of a gzip-compressed idx file, checked against the expected magic number and shape.

    Raises:
        DataError: unreadable, or another magic number, shape or length; names the file.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): give --source the folder of the four .gz files") from error
    expected = np.array([magic, *shape], ">i4").tobytes()
    header, payload = data[: len(expected)], data[len(expected) :]
    if header != expected:
        raise DataError(f"{path} starts with {header.hex()}, expected the idx header {expected.hex()}")
    if len(payload) != np.prod(shape):
        raise DataError(f"{path} holds {len(payload)} bytes after its header, expected {np.prod(shape)}")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def reduce_images(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> uint8 [N, 16, 16]: zero padding to 32x32, then 2x2 means rounded half up."""
    margin = SIDE - ORIGINAL_SIDE // 2
    padded = np.pad(images.astype(np.uint16), ((0, 0), (margin, margin), (margin, margin)))
    blocks = padded.reshape(-1, SIDE, 2, SIDE, 2)
    return ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def read_split(source: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Reduced images uint8 [N, 16, 16] and labels uint8 [N] of one split. DataError as in `read_idx`."""
    samples = PACKED[split][0].shape[0]
    name = ORIGINAL_NAMES[split]
    images = read_idx(source / f"{name}-images-idx3-ubyte.gz", IMAGES_MAGIC, (samples, ORIGINAL_SIDE, ORIGINAL_SIDE))
    labels_path = source / f"{name}-labels-idx1-ubyte.gz"
    labels = read_idx(labels_path, LABELS_MAGIC, (samples,))
    if labels.max() > 9:
        raise DataError(f"{labels_path} holds label {labels.max()}, expected 0 to 9")
    return reduce_images(images), labels


def pack(array: np.ndarray) -> bytes:
    """The bytes of the .xz file that holds this uint8 array in C order."""
    return lzma.compress(array.tobytes(), lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=XZ_FILTERS)


def build(source: Path, to: Path) -> None:
    """Write the packed arrays and their SHA-256 sums into `to`, complete or not at all.

    Raises:
        DataError: the originals are missing or damaged.
        OSError: `to` is not empty, or cannot be written.
    """
    with atomic_folder(to) as folder:
        sums = []
        for split, packed in PACKED.items():
            for target, array in zip(packed, read_split(source, split), strict=True):
                data = pack(array)
                write_bytes_atomic(folder / target.name, data)
                sums.append(f"{hashlib.sha256(data).hexdigest()}  {target.name}\n")
        write_text_atomic(folder / SUMS, "".join(sums))


def differing_files(rebuilt: Path, vendored: Path) -> list[str]:
    """Names of rebuilt files whose vendored counterpart is missing or differs in any byte."""
    return [
        path.name
        for path in sorted(rebuilt.iterdir())
        if not (vendored / path.name).is_file() or (vendored / path.name).read_bytes() != path.read_bytes()
    ]


def check(source: Path) -> int:
    """Rebuild in a temporary folder; 0 if every file equals the vendored one, else 1, naming those that differ."""
    with tempfile.TemporaryDirectory() as temporary:
        rebuilt = Path(temporary) / "fashion"
        build(source, rebuilt)
        differing = differing_files(rebuilt, ASSETS)
    for name in differing:
        print(f"{ASSETS / name} differs from what {source} gives", file=sys.stderr)
    return 1 if differing else 0


def main(arguments: list[str] | None = None) -> int:
    """Command line: exit status 0, 1 where --check found a difference, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.build_fashion", description="Fashion-MNIST at 16x16")
    parser.add_argument("--source", type=Path, default=DEBIAN_SOURCE, help="folder of the four idx .gz files")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--to", type=Path, help="folder to write, empty or absent")
    action.add_argument("--check", action="store_true", help="compare with the vendored files")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            return check(options.source)
        build(options.source, options.to)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
