"""Images in one picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt


def tile(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Images [N, H, W, C] in rows of `columns`: [rows H, columns W], or [..., 3]; places that are left are black."""
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, height, width, channels), np.uint8)
    padded[:n] = images
    picture = padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    picture = picture.reshape(rows * height, columns * width, channels)
    return picture[..., 0] if channels == 1 else picture


def to_png(images: npt.NDArray[np.uint8], columns: int) -> bytes:
    """A PNG file of images [N, H, W, C], C = 1 or 3, in rows of `columns`."""
    from PIL import Image  # a run without pictures gets by without it

    buffer = io.BytesIO()
    Image.fromarray(tile(images, columns)).save(buffer, "PNG")
    return buffer.getvalue()
