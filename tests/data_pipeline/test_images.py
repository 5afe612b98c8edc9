from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.images import load_images
from data_pipeline.manifest import DataError


def random_images(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3)])
def test_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 2, 1, 0, 2], np.uint8))
    loaded, labels, names = load_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded, images.reshape(5, 6, 7, -1))
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1, 0, 2]
    assert names == ("0", "1", "2")


GOOD: dict[str, Any] = {"images": random_images(4, 6, 6), "labels": np.arange(4)}
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "images missing": ({"images": None}, "must hold the arrays"),
    "labels missing": ({"labels": None}, "must hold the arrays"),
    "float images": ({"images": np.zeros((4, 6, 6))}, "images is float64"),
    "two channels": ({"images": np.zeros((4, 6, 6, 2), np.uint8)}, r"\[4, 6, 6, 2\]"),
    "no images": ({"images": np.zeros((0, 6, 6), np.uint8), "labels": np.arange(0)}, r"\[0, 6, 6, 1\]"),
    "too few labels": ({"labels": np.arange(3)}, "expected 4 integers"),
    "float labels": ({"labels": np.arange(4.0)}, "labels is float64"),
    "negative label": ({"labels": np.arange(4) - 1}, "none below 0"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path: Path, kind: str) -> None:
    change, message = BAD_ARRAYS[kind]
    np.savez(tmp_path / "a.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        load_images(tmp_path / "a.npz")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_hostile_pickle_is_not_opened(tmp_path: Path, key: str) -> None:
    hostile = np.array([Bomb(tmp_path / "exploded")] * 4)
    np.savez(tmp_path / "a.npz", allow_pickle=True, **(GOOD | {key: hostile}))
    with pytest.raises(DataError, match=r"a\.npz cannot be read as \.npz of plain arrays"):
        load_images(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04rest", b"no zip", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_npz(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        load_images(tmp_path / "a.npz")


def test_every_flipped_byte_of_an_npz_is_refused_or_harmless(tmp_path: Path) -> None:
    """Harmless are names, dates and padding that no reader looks at: the arrays come back unchanged."""
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 255
        path.write_bytes(flipped)
        try:
            images, labels, _ = load_images(path)
        except DataError:
            refused += 1
            continue
        np.testing.assert_array_equal(images[..., 0], GOOD["images"])
        np.testing.assert_array_equal(labels, GOOD["labels"])
    assert refused > len(whole) / 2


def test_every_cut_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.npz cannot be read"):
            load_images(path)


def test_missing_file_and_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz cannot be read"):
        load_images(tmp_path / "absent.npz")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar is neither"):
        load_images(tmp_path / "a.tar")


SHUFFLED = [10 + 7 * number % 24 for number in range(24)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of grey 6x7 images, with a hidden file that does not matter."""
    for number, image in enumerate(random_images(24, 6, 7)):
        target = tmp_path / "data" / ("zebra", "ant")[number % 2] / f"{SHUFFLED[number]}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
    (tmp_path / "data" / "ant" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "data" / "README.txt").write_bytes(b"x")
    return tmp_path / "data"


def test_folder_in_sorted_order(folder: Path) -> None:
    images, labels, names = load_images(folder)
    by_name = np.argsort(SHUFFLED)
    order = [*by_name[by_name % 2 == 1], *by_name[by_name % 2 == 0]]
    np.testing.assert_array_equal(images, random_images(24, 6, 7)[order, ..., None])
    assert labels.tolist() == [0] * 12 + [1] * 12
    assert labels.dtype == np.int64
    assert names == ("ant", "zebra")


def test_colour_png_and_jpeg(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "x" / "a.PNG")
    Image.fromarray(flat).save(tmp_path / "x" / "b.jpg", quality=100)
    images, _, _ = load_images(tmp_path)
    np.testing.assert_array_equal(images[0], flat)
    np.testing.assert_allclose(images[1].astype(int), flat, atol=3)


def test_bad_image_files_are_named(folder: Path) -> None:
    bad = folder / "zebra" / "00.png"
    image = Image.fromarray(random_images(6, 7))
    damaged = {
        r"00\.png is 6x7x3, but .*\.png is 6x7x1": lambda: image.convert("RGB").save(bad),
        r"00\.png is 7x6x1": lambda: image.transpose(Image.Transpose.ROTATE_90).save(bad),
        r"00\.png has mode RGBA": lambda: image.convert("RGBA").save(bad),
        r"00\.png cannot be read": lambda: bad.write_bytes(b"no image"),
        r"00\.png cannot be read ": lambda: image.save(bad) or bad.write_bytes(bad.read_bytes()[:70]),
        r"00\.png cannot be read  ": lambda: image.save(bad, format="GIF"),
    }
    for message, make in damaged.items():
        make()
        with pytest.raises(DataError, match=message.rstrip()):
            load_images(folder)


def test_folders_of_another_layout(folder: Path) -> None:
    with pytest.raises(DataError, match="has no subfolders"):
        load_images(folder / "ant")
    (folder / "ant" / "notes.txt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"notes\.txt is not an image"):
        load_images(folder)
    (folder / "ant" / "notes.txt").unlink()
    (folder / "bee").mkdir()
    with pytest.raises(DataError, match="bee holds no images"):
        load_images(folder)
