"""Image files as a person sees them: upright, opaque, 8 bits a channel; and the crop of the paper."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.manifest import DataError
from data_pipeline.pictures import centre_crop, pixels, read_picture


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read(data: bytes, channels: int = 3) -> tuple[np.ndarray, dict[str, int]]:
    counts: Counter[str] = Counter()
    return pixels(read_picture(data, "it", counts), channels, "it"), dict(counts)


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=2)


def test_plain_images_are_taken_as_they_are() -> None:
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        array, counts = read(saved(Image.fromarray(COLOUR), form, **options))
        np.testing.assert_array_equal(array, COLOUR)
        assert counts == {}


def test_grey_has_three_equal_channels_or_one() -> None:
    array, counts = read(saved(Image.fromarray(RAMP)))
    np.testing.assert_array_equal(array, np.repeat(RAMP[..., None], 3, axis=2))
    np.testing.assert_array_equal(read(saved(Image.fromarray(RAMP)), 1)[0], RAMP[..., None])
    assert counts == {"grey": 1}
    with pytest.raises(DataError, match="it has colours, and grey images are asked for"):
        read(saved(Image.fromarray(COLOUR)), 1)
    assert read(saved(Image.fromarray(RAMP > 99)))[0][0, :2].tolist() == [[0] * 3] * 2


def test_sixteen_bits_are_scaled_not_cut() -> None:
    """Pillow's own conversion makes white of everything above 255."""
    wide = np.array([[0, 128, 129, 257 * 100, 65535]], np.uint16)
    array, counts = read(saved(Image.fromarray(wide)))
    assert array[0, :, 0].tolist() == [0, 0, 1, 100, 255]
    assert counts == {"grey": 1, "16 bit": 1}


def test_animations_are_counted_and_their_first_picture_taken() -> None:
    options = {"save_all": True, "append_images": [Image.fromarray(255 - COLOUR)], "lossless": True}
    array, counts = read(saved(Image.fromarray(COLOUR), "WEBP", **options))
    np.testing.assert_array_equal(array, COLOUR)
    assert counts == {"animated": 1}


def test_transparent_grey_of_sixteen_bits_shows_white() -> None:
    array, counts = read(saved(Image.fromarray(np.array([[0, 257 * 100]], np.uint16)), transparency=0))
    assert array[0, :, 0].tolist() == [255, 100]
    assert counts == {"grey": 1, "alpha": 1, "16 bit": 1}


def test_transparency_shows_white() -> None:
    clear = np.dstack([COLOUR, np.full((16, 16), 0, np.uint8)])
    clear[:, 8:, 3] = 255
    array, counts = read(saved(Image.fromarray(clear)))
    assert (array[:, :8] == 255).all()
    np.testing.assert_array_equal(array[:, 8:], COLOUR[:, 8:])
    assert counts == {"alpha": 1}
    half = Image.fromarray(np.full((2, 2, 4), (255, 0, 0, 128), np.uint8))
    np.testing.assert_allclose(read(saved(half))[0][0, 0], (255, 127, 127), atol=1)
    palette = Image.fromarray(COLOUR).quantize(16)
    assert read(saved(palette, transparency=palette.getpixel((0, 0))))[1] == {"palette": 1, "alpha": 1}
    assert (read(saved(palette, transparency=palette.getpixel((0, 0))))[0][0, 0] == 255).all()


def test_cmyk_is_not_inverted() -> None:
    """As Adobe's programs save it, inverted, and as Pillow reads it back."""
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    array, counts = read(saved(red.convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(array[8, 8], (200, 30, 40), atol=4)
    assert counts == {"CMYK": 1}


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_turns_images_upright(orientation: int) -> None:
    """The eight placements of EXIF's standard, as array operations from the stored rows to the upright image."""
    upright = {
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1),
        6: np.rot90(COLOUR, -1),
        7: np.rot90(COLOUR, 2).swapaxes(0, 1),
        8: np.rot90(COLOUR),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    array, counts = read(saved(Image.fromarray(COLOUR), exif=exif))
    np.testing.assert_array_equal(array, upright[orientation])
    assert counts == {"turned by EXIF": 1}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_are_named(form: str) -> None:
    whole = saved(Image.fromarray(COLOUR), form)
    with pytest.raises(DataError, match=r"it cannot be read as an image \(it is empty\)"):
        read(b"")
    for data in (b"no image", whole[: len(whole) // 2]):
        with pytest.raises(DataError, match=r"it cannot be read as an image .*: mend it or remove it"):
            read(data)
    with pytest.raises(DataError, match="it cannot be read as an image"):
        read(saved(Image.fromarray(RAMP), "GIF"))


def test_the_crop_halves_by_means_and_takes_the_middle() -> None:
    """Where halving alone reaches the side: means of pairs along rows, then along columns, each rounded half up."""
    noise = np.random.Generator(np.random.Philox(0)).integers(256, size=(128, 256, 3), dtype=np.uint8)
    expected = noise.astype(int)
    for _ in range(2):
        expected = (expected[:, ::2] + expected[:, 1::2] + 1) // 2
        expected = (expected[::2] + expected[1::2] + 1) // 2
    np.testing.assert_array_equal(centre_crop(Image.fromarray(noise), 32), expected[:, 16:48])


@pytest.mark.parametrize(("width", "height"), [(100, 70), (70, 100), (333, 257), (40, 20), (64, 65), (31, 47)])
def test_the_crop_keeps_proportions_and_the_middle(width: int, height: int) -> None:
    """x and y as colours: the square's middle is the image's, and a step across it is the shorter side's."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    picture = Image.fromarray(np.stack([255 * x, 255 * y, 0 * x], 2).round().astype(np.uint8))
    made = np.asarray(centre_crop(picture, 16)).astype(float) / 255
    assert made.shape == (16, 16, 3)
    np.testing.assert_allclose(made[..., :2].mean((0, 1)), 0.5, atol=0.05)
    shorter = min(width, height)
    expected = np.array([shorter / width, shorter / height]) * 14 / 16
    np.testing.assert_allclose([made[8, 15, 0] - made[8, 1, 0], made[15, 8, 1] - made[1, 8, 1]], expected, atol=0.04)
