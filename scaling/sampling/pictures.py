"""Images in one picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

LEAST = 48  # pixels a side of an image over its label
CAPTION = 14  # pixels of the label's line
COLUMNS = 10


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
    return _png(tile(images, columns))


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of one image [H, W, C], C = 1 or 3."""
    return _png(image[..., 0] if image.shape[-1] == 1 else image)


def labelled_grid(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> bytes:
    """A PNG file of images [N, H, W, C] in rows of ten, each over its label [N]; without labels (-1) the images alone.

    Small images are enlarged by a whole factor, so that a label fits under each.
    """
    if (labels < 0).all():
        return to_png(images, COLUMNS)
    from PIL import Image, ImageDraw

    factor = -(-LEAST // min(images.shape[1:3]))
    enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cells = np.pad(enlarged, ((0, 0), (0, CAPTION), (0, 0), (0, 0)))
    picture = Image.fromarray(tile(cells, COLUMNS))
    draw = ImageDraw.Draw(picture)
    height, width = cells.shape[1:3]
    for place, label in enumerate(labels.tolist()):
        row, column = divmod(place, COLUMNS)
        at = (column * width + 3, (row + 1) * height - CAPTION)
        draw.text(at, str(label), fill=255 if images.shape[-1] == 1 else (255, 255, 255))
    return _saved(picture)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image  # a run without pictures gets by without it

    return _saved(Image.fromarray(pixels))


def _saved(picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
