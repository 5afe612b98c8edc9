from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import build_fashion, fashion
from data_pipeline.build_fashion import DEBIAN_SOURCE, IMAGES_MAGIC, differing_files, read_idx, reduce_images
from data_pipeline.fashion import ASSETS, CLASS_NAMES, PACKED, Split, load_fashion
from data_pipeline.manifest import DataError


@pytest.mark.parametrize(("split", "per_class"), [("train", 6000), ("test", 1000)])
def test_shapes_and_balance(split: Split, per_class: int) -> None:
    images, labels = load_fashion(split)
    assert images.shape == (10 * per_class, 16, 16)
    assert images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [per_class] * len(CLASS_NAMES)


def test_labels_belong_to_their_images() -> None:
    """The mean image of each training class is the nearest one to the mean image of the same test class."""
    means = []
    for split in ("train", "test"):
        images, labels = load_fashion(split)
        means.append(np.stack([images[labels == c].mean(axis=0).ravel() for c in range(10)]))
    distances = np.linalg.norm(means[0][:, None] - means[1][None], axis=2)
    assert distances.argmin(axis=1).tolist() == list(range(10))


def test_vendored_files_have_their_listed_hashes_and_fit_the_budget() -> None:
    sums = dict(line.split("  ")[::-1] for line in (ASSETS / "SHA256SUMS.txt").read_text().splitlines())
    packed = sorted(ASSETS.glob("*.xz"))
    assert sorted(sums) == [path.name for path in packed]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packed} == sums
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 10_000_000
    assert "Copyright (c) 2017 Zalando SE" in (ASSETS / "LICENSE.txt").read_text()


@pytest.fixture
def copied_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the test split that can be damaged."""
    for name in ("test-images.u8.xz", "test-labels.u8.xz"):
        shutil.copy(ASSETS / name, tmp_path)
    monkeypatch.setattr(fashion, "ASSETS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "swapped"])
def test_damaged_vendored_file_is_named(copied_assets: Path, damage: str) -> None:
    path = copied_assets / "test-labels.u8.xz"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-100])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        shutil.copy(ASSETS / "train-labels.u8.xz", path)
    with pytest.raises(DataError, match=r"test-labels\.u8\.xz .*: restore it"):
        load_fashion("test")


def test_reduction_is_a_padded_mean_rounded_half_up() -> None:
    images = np.random.Generator(np.random.Philox(0)).integers(256, size=(3, 28, 28), dtype=np.uint8)
    images[0, 0, :4] = [1, 1, 255, 255]
    images[0, 1, :4] = [0, 0, 255, 254]
    reduced = reduce_images(images)
    assert reduced[0, 1, 1:3].tolist() == [1, 255]  # means of 0.5 and 254.75
    padded = np.zeros((3, 32, 32))
    padded[:, 2:30, 2:30] = images
    means = (padded[:, ::2, ::2] + padded[:, 1::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, 1::2]) / 4
    np.testing.assert_array_equal(reduced, np.floor(means + 0.5))
    assert reduced.dtype == np.uint8


def idx_bytes(array: np.ndarray, magic: int = IMAGES_MAGIC) -> bytes:
    return np.array([magic, *array.shape], ">i4").tobytes() + array.tobytes()


def test_idx_files_are_validated(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    good = idx_bytes(array)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(good))
    np.testing.assert_array_equal(read_idx(path, IMAGES_MAGIC, (2, 3, 4)), array)
    damaged = {
        "idx header": gzip.compress(idx_bytes(array, magic=0x0D03)),
        "23 bytes": gzip.compress(good[:-1]),
        "25 bytes": gzip.compress(good + b"\0"),
        "cannot be read": gzip.compress(good)[:-9],
        "cannot be read ": good,
    }
    for message, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"x\.gz.*{message}"):
            read_idx(path, IMAGES_MAGIC, (2, 3, 4))
    path.write_bytes(gzip.compress(good))
    with pytest.raises(DataError, match="idx header"):
        read_idx(path, IMAGES_MAGIC, (2, 4, 3))


def test_check_names_the_file_that_differs(tmp_path: Path) -> None:
    rebuilt, vendored = tmp_path / "rebuilt", tmp_path / "vendored"
    for folder in (rebuilt, vendored):
        folder.mkdir()
        for name in "abc":
            (folder / name).write_bytes(name.encode())
    assert differing_files(rebuilt, vendored) == []
    (vendored / "a").write_bytes(b"b")
    (vendored / "c").unlink()
    assert differing_files(rebuilt, vendored) == ["a", "c"]


def test_build_reports_a_missing_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_fashion.main(["--source", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not DEBIAN_SOURCE.is_dir(), reason="the originals (Debian: dataset-fashion-mnist) are not here")
def test_check_rebuilds_the_vendored_files_and_finds_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = PACKED["train"][0]
    packed = {target.shape: (ASSETS / target.name).read_bytes()}
    pack = build_fashion.pack

    def quick_pack(array: np.ndarray) -> bytes:
        """Compress each array once, but not the training images, which take ten seconds: compare their content."""
        if array.shape == target.shape:
            assert hashlib.sha256(array.tobytes()).hexdigest() == target.sha256
        elif array.shape not in packed:
            packed[array.shape] = pack(array)
        return packed[array.shape]

    monkeypatch.setattr(build_fashion, "pack", quick_pack)
    assert build_fashion.main(["--check"]) == 0
    monkeypatch.setattr(build_fashion, "pack", lambda array: quick_pack(array) + b"x" * (array.shape == (10_000,)))
    assert build_fashion.main(["--check"]) == 1
    errors = capsys.readouterr().err
    assert "test-labels.u8.xz differs" in errors
    assert "images" not in errors
