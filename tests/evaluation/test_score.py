"""What is judged, against what, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.manifest import DataError
from scaling.evaluation.classifier import FEATURES
from scaling.evaluation.frechet import Reference
from scaling.evaluation.score import Real, balanced, image_features, real_statistics, score


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(256, size=(count, *shape), dtype=np.uint8)


REAL = Real(Reference(np.zeros(FEATURES), np.eye(FEATURES)), 0.5, 100)
GOOD: dict[str, Any] = {"mean": np.zeros(64), "covariance": np.eye(64), "floor": np.float64(0.5), "samples": 100}
GOOD["name"] = "r"
BENT = np.where(np.arange(64 * 64).reshape(64, 64) == 1, 1.0, np.eye(64))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a NaN in the mean": ({"mean": np.where(np.arange(64) == 3, np.nan, 0)}, "the mean holds NaN"),
    "a mean of length 1": ({"mean": np.zeros(1)}, r"shapes \[1\] and \[64, 64\]"),
    "other features": ({"mean": np.zeros(3), "covariance": np.eye(3)}, "64 features against those of 3"),
    "indefinite": ({"covariance": np.diag(np.arange(64.0) - 1)}, "indefinite"),
    "asymmetric": ({"covariance": BENT}, "not symmetric"),
    "no floor": ({"floor": np.float64("nan")}, "the floor is nan"),
    "a negative floor": ({"floor": -1.0}, "the floor is -1"),
    "floors": ({"floor": np.ones(2)}, "the floor is"),
    "no samples": ({"samples": 0}, "at N = 0"),
    "images": ({"mean": None}, "must hold the arrays"),
}


def test_statistics_of_real_images_come_back(tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(REAL.to_bytes("r"))
    read = Real.load(tmp_path / "r.npz")
    assert (read.floor, read.samples) == (0.5, 100)
    np.testing.assert_array_equal(read.reference.covariance, np.eye(FEATURES))


@pytest.mark.parametrize("kind", BAD)
def test_damaged_statistics_name_the_file(tmp_path: Path, kind: str) -> None:
    change, message = BAD[kind]
    np.savez(tmp_path / "r.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(DataError, match=rf"r\.npz: is not a whole file of real statistics \(.*{message}.*delete it"):
        Real.load(tmp_path / "r.npz")


def test_another_number_of_images_is_told_the_options() -> None:
    message = r"30 images, but the floor .* 100.*give 100 images, or a reference at N = 30.*evaluation\.samples=30"
    with pytest.raises(DataError, match=message):
        score(images(30, 16, 16, 1), REAL, 0, 0)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            images(100, 32, 32, 3),
            r"evaluation\.metric: fd-fashion judges .*16x16x1 \(grey\).*32x32x3: set it to",
        ),
        (images(100, 16, 16, 1) / 255, r"fd-fashion: images is float64.*\(255 \* images\)\.round"),
        (images(100, 16, 16, 2), "choose 1 or 3 channels"),
        (np.float32(np.nan) * images(100, 16, 16, 1).astype(np.float32), "NaN or infinity"),
        (np.array(3.0), "float64"),
    ],
)
def test_what_is_no_image_is_not_judged(made: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(made, REAL, 0, 0)
    with pytest.raises(DataError, match=message):
        real_statistics(made, made, np.zeros(100, np.int64), 100)


def test_grey_images_may_lack_their_channel() -> None:
    made = images(100, 16, 16)
    np.testing.assert_array_equal(image_features(made), image_features(made[..., None]))
    assert score(made, REAL, 0, 0) == score(made[..., None], REAL, 0, 0)


def test_balanced_takes_each_class_in_turn() -> None:
    assert balanced(np.array([2, 1, 0, 0, 1, 2]), 5).tolist() == [2, 1, 0, 3, 4]
    with pytest.raises(DataError, match="class 0 has 1 held-out images, 2 are needed: lower evaluation"):
        balanced(np.array([0, 1, 1]), 4)
    with pytest.raises(DataError, match="class 1 has 0 held-out images, 2 are needed: add some"):
        balanced(np.array([0, 0, 2, 2]), 4)
    with pytest.raises(DataError, match="class 1 has 0 held-out"):
        balanced(np.array([0, 2**62]), 4)
