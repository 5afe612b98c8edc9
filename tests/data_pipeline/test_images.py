from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.images import load_images
from data_pipeline.labels import describe_classes
from data_pipeline.manifest import DataError
from data_pipeline.pixels import require_images
from scaling.evaluation.images.sets import open_images


def random_images(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3)])
def test_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 2, 1, 0, 2], np.uint8))
    loaded = load_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.images, images.reshape(5, 6, 7, -1))
    assert loaded.labels.dtype == np.int64
    assert loaded.labels.tolist() == [0, 2, 1, 0, 2]
    assert (loaded.num_classes, loaded.class_names) == (3, None)
    samples = np.concatenate(list(open_images(tmp_path / "a.npz").batches(2)))
    np.testing.assert_array_equal(samples, loaded.images)


GOOD: dict[str, Any] = {"images": random_images(4, 6, 6), "labels": np.arange(4)}
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "images missing": ({"images": None, "x": 0}, r"the arrays .*has `labels`, `x`, no `images`: .*images=f\[\.\.\.\]"),
    "labels missing": ({"labels": None}, r"the arrays .*, and has `images`, no `labels`.*images=f\['images'\]"),
    "no images": ({"images": np.zeros((0, 6, 6), np.uint8), "labels": np.arange(0)}, r"\[0, 6, 6\].*no pixels"),
    "a cast of 0..1": ({"images": GOOD["images"] // 128}, "0 and 1 alone.*multiply by 255 before the cast"),
    "too few labels": ({"labels": np.arange(3)}, "expected 4 integers"),
    "float labels": ({"labels": np.arange(4.0)}, r"labels is float64.*: labels\.astype"),
    "a column of labels": ({"labels": np.arange(4)[:, None]}, r": labels\[:, 0\]"),
    "one-hot labels": ({"labels": np.eye(4, dtype=int)}, r"labels\.argmax\(1\)"),
    "labels of text": ({"labels": np.array(list("abca"))}, r"np\.unique\(labels, return_inverse=True\)\[1\]"),
    "images without a class": ({"labels": np.array([-1, 0, 1, 2])}, "often marks images without a class"),
    "a single image": (
        {"images": random_images(6, 6, 3), "labels": np.arange(6)},
        r"a single image\? then images\[None",
    ),
    "negative label": ({"labels": np.arange(4) - 1}, "labels holds -1, expected 0 to"),
    "a label of 2^31": ({"labels": np.arange(4) + 2**31 - 4}, "labels holds 2147483647, expected 0 to 2147483646"),
    "a label of 2^62": ({"labels": np.array([0, 0, 0, 2**62])}, "labels holds 4611686018427387904"),
    "a label above int64": ({"labels": np.array([0, 0, 0, 2**64 - 1], np.uint64)}, "labels holds 18446744073709551615"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path: Path, kind: str) -> None:
    change, message = BAD_ARRAYS[kind]
    np.savez(tmp_path / "a.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        load_images(tmp_path / "a.npz")


UNIT = np.linspace(0, 1, 144).reshape(4, 6, 6, 1)
# Arrays that are no images, and the expression in their refusal that makes images of them.
NO_IMAGES: dict[str, tuple[np.ndarray, str]] = {
    "0..1": (UNIT, "they hold 0 to 1: (255 * images).round().astype(np.uint8)"),
    "-1..1": (2 * UNIT - 1, "they hold -1 to 1: ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)"),
    "float 0..255": (255 * UNIT, "they hold 0 to 255: images.round().astype(np.uint8)"),
    "16 bits": (GOOD["images"] * np.uint16(257), "(images / 257).round().astype(np.uint8) where 65535 is white"),
    "int64": (GOOD["images"].astype(np.int64), ": images.round().astype(np.uint8)"),
    "bool": (UNIT > 0.5, ": (255 * images).round().astype(np.uint8)"),
    "channels first": (np.zeros((4, 3, 6, 8), np.uint8), "channels come last: images.transpose(0, 2, 3, 1)"),
    "transparency": (np.zeros((4, 6, 6, 4), np.uint8), "images[..., :3]"),
}
NO_REMEDY: dict[str, tuple[np.ndarray, str]] = {
    "NaN": (np.where(np.arange(4).reshape(4, 1, 1, 1) > 1, np.nan, UNIT), "2 of them hold NaN or infinity, the first"),
    "wide range": (1000 * UNIT, "they hold 0 to 1000: scale them to 0..255"),
    "two channels": (np.zeros((4, 6, 6, 2), np.uint8), "choose 1 or 3 channels"),
    "a scalar": (np.array(3.0), "float64 []"),
    "a NaN": (np.array(np.nan), "1 of them hold NaN"),
    "a uint8 scalar": (np.array(3, np.uint8), "a single image is [1, H, W, C]"),
    "text": (np.array(["a"]), "whole numbers of 8 bits"),
    "nothing": (np.zeros((0, 6, 6)), "whole numbers of 8 bits"),
}


@pytest.mark.parametrize("kind", [*NO_IMAGES, *NO_REMEDY])
def test_the_gate_of_images_says_what_makes_images_of_an_array(kind: str) -> None:
    images, message = (NO_IMAGES | NO_REMEDY)[kind]
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        require_images(images, "a.npz")
    assert str(caught.value).startswith(f"a.npz: images is {images.dtype} {list(images.shape)}, expected uint8")
    if kind in NO_IMAGES:
        mended = eval(str(caught.value).rsplit(": ", 1)[1].partition(" where ")[0], {"images": images, "np": np})
        assert require_images(mended, "a.npz").shape[0] == 4


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


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04rest", b"no zip"])
def test_files_that_are_no_npz(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        load_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\x93NUMPY\x01\x00", r"a \.npy file"),
        (b"\x80\x04\x95", "a pickle, expected"),
        (b"<!DOCTYPE html>", "a web page"),
    ],
)
def test_files_of_another_kind_are_called_by_it(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.npz is {what}.*an \.npz file that holds an array `images`"):
        open_images(tmp_path / "a.npz")


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**30, 6, 6, 1)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"`images` claims uint8 \[1073741824, 6, 6, 1\], but 100 bytes follow it"):
        open_images(tmp_path / "a.npz")


def test_flipped_bytes_of_an_npz_are_refused_or_harmless(tmp_path: Path) -> None:
    """Harmless are names, dates and padding that no reader looks at: the arrays come back unchanged."""
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 2):
        flipped = bytearray(whole)
        flipped[position] ^= 255
        path.write_bytes(flipped)
        try:
            loaded = load_images(path)
        except DataError:
            refused += 1
            continue
        np.testing.assert_array_equal(loaded.images[..., 0], GOOD["images"])
        np.testing.assert_array_equal(loaded.labels, GOOD["labels"])
    assert refused > len(whole) / 4


def test_every_cut_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    for size in range(0, len(whole), 29):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.npz cannot be read"):
            load_images(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz cannot be read: there is no such file"):
        load_images(tmp_path / "absent.npz")


def test_absent_classes_are_counted_and_named() -> None:
    assert describe_classes(np.array([0, 1, 1]), 2) == "2 classes"
    assert describe_classes(np.array([0, 2, 5]), 6) == "6 classes, 3 of them without samples: 1, 3, 4"
    assert describe_classes(np.array([0]), 2, ("cat", "dog")) == "2 classes, 1 of them without samples: 1 (dog)"
    large = describe_classes(np.array([0, 2**31 - 2]), 2**31 - 1)
    assert large == "2,147,483,647 classes, 2,147,483,645 of them without samples: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..."
