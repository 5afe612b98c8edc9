"""Images in an .npz file as a stream, written and read: 50,000 of 512x512 are 39 GB, of which a batch is held."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.arrays import load_arrays, read_header
from data_pipeline.manifest import DataError
from data_pipeline.pixels import require_images

DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever it is written
LEVEL = 1  # of deflate: images hardly shrink further


def add_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Write a whole array as a member of an .npz file."""
    with _member(archive, name) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


def add_images(archive: zipfile.ZipFile, batches: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write `images`, uint8 of `shape` [N, H, W, C], as they come in batches."""
    with _member(archive, "images") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(stream, header)
        for batch in batches:
            stream.write(np.ascontiguousarray(batch).data)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy", DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info._compresslevel = LEVEL  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    with archive.open(info, "w", force_zip64=True) as stream:
        yield stream


@dataclass(frozen=True)
class ImageFile:
    """The images of an .npz file as a stream: their number, and height, width and channels; `array` is their name."""

    path: Path
    count: int
    shape: tuple[int, int, int]
    array: str = "images"

    @classmethod
    def open(cls, path: Path, array: str = "images") -> ImageFile:
        """Read the header of the file. DataError names it where it holds no images uint8 [N, H, W(, C)]."""
        shape, dtype = _header(path, array)
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape or shape[3:] not in ((), (1,), (3,)):
            require_images(load_arrays(path, array)[0], str(path))  # says what is wrong with them
        height, width, channels = (*shape[1:], 1)[:3]
        return cls(path, shape[0], (height, width, channels), array)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Images uint8 [B, H, W, C], at most `size` at a time, in order. DataError where the file is cut or damaged."""
        height, width, channels = self.shape
        each = height * width * channels
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.array}.npy") as stream:
                read_header(stream)
                for start in range(0, self.count, size):
                    held = min(size, self.count - start)
                    data = stream.read(held * each)
                    if len(data) != held * each:
                        raise DataError(f"{self.path}: ends at image {start + len(data) // each}: make it again")
                    yield np.frombuffer(bytearray(data), np.uint8).reshape(held, height, width, channels)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise DataError(f"{self.path} cannot be read as .npz of images ({error}): make it again") from error


def _header(path: Path, array: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array; whatever is wrong with the file is said by `load_arrays`."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{array}.npy")
            with archive.open(info) as stream:
                shape, fortran, dtype = read_header(stream)
                held = info.file_size - stream.tell()
    except (zipfile.BadZipFile, KeyError, ValueError, OSError):
        loaded = load_arrays(path, array)[0]
        return loaded.shape, loaded.dtype
    if fortran or dtype.hasobject or int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != held:
        loaded = load_arrays(path, array)[0]  # raises, but for a Fortran order
        raise DataError(f"{path}: `{array}` is {loaded.dtype} in Fortran order: np.ascontiguousarray before saving")
    return shape, dtype
