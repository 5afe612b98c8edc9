"""From an image file's bytes to the pixels that are trained on: upright, of one size, 8-bit grey or RGB."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from data_pipeline.manifest import DataError

FORMATS = ("PNG", "JPEG", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag
PNG_DEPTH = 24  # the byte of a PNG file that says how many bits a channel has
WHITE = (255, 255, 255, 255)
# What is counted: images that are not plain 8-bit RGB, each by all that it is.
GREY = "grey"
KINDS = (GREY, "CMYK", "palette", "alpha", "16 bit", "turned by EXIF", "animated")


def read_picture(data: bytes, where: str, counts: Counter[str]) -> Image.Image:
    """The image as a person sees it, 8-bit "L" or "RGB"; what it was is counted under `KINDS`.

    EXIF's orientation is carried out, transparency shows white, 16-bit grey is scaled to 8 bits, CMYK becomes RGB, of
    an animation the first picture is taken.
    Raises DataError for what cannot be read whole; names `where`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.load()
                return _plain(image, data, counts)
    except UnidentifiedImageError as error:
        what = "it is no PNG, JPEG or WebP" if data else "it is empty"
        raise DataError(f"{where} cannot be read as an image ({what}): mend it or remove it") from error
    except Exception as error:  # damaged images raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"{where} cannot be read as an image ({error}): mend it or remove it") from error


def _plain(image: Image.Image, data: bytes, counts: Counter[str]) -> Image.Image:
    deep = image.mode.startswith("I") or (image.format == "PNG" and data[PNG_DEPTH] == 16)
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    turned = image.getexif().get(ORIENTATION, 1) != 1
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    moving = getattr(image, "n_frames", 1) > 1
    marks = (grey, image.mode in ("CMYK", "YCCK"), image.mode in ("P", "PA"), clear, deep, turned, moving)
    counts.update(kind for kind, present in zip(KINDS, marks, strict=True) if present)
    if turned:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion cuts at 255
        wide = np.asarray(image).astype(np.uint32)
        unseen = clear and wide == image.info["transparency"]
        image = Image.fromarray(np.where(unseen, 255, (wide * 255 + 32767) // 65535).astype(np.uint8))
    elif clear:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square at side x side pixels, resized as guided diffusion and EDM2 do ("center-crop-dhariwal").

    Halved with a box filter while the shorter side is at least twice as long, then bicubic to the side, then cropped.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def pixels(image: Image.Image, channels: int, where: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, channels]; grey becomes RGB of three equal channels. DataError for colour where it must be grey."""
    if channels == 1 and image.mode != "L":
        raise DataError(f"{where} has colours, and grey images are asked for: choose an encoder of RGB images")
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)
