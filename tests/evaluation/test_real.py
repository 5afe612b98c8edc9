"""The side of the real images: what comes back, what is refused, what is judged against it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.manifest import DataError
from scaling.config.metrics import METRICS, get_metric
from scaling.evaluation.extract import Extracted, extract
from scaling.evaluation.frechet import Reference
from scaling.evaluation.judge import Judged, Settings, judge, of_sets
from scaling.evaluation.real import Real, Some, balanced, in_turn, real_statistics
from scaling.evaluation.spaces.small import fashion_space
from scaling.evaluation.spaces.space import About, ArrayImages, SpaceError

ABOUT = About("fashion", 64, "network", "0" * 64)
REAL = Real(ABOUT, Reference(np.zeros(64), np.eye(64)), 1000, 100, {"fd-fashion": 0.5})
GOOD: dict[str, Any] = {"mean": np.zeros(64), "covariance": np.eye(64), "features": np.zeros((0, 0), np.float32)}
FACTS: dict[str, Any] = {"about": asdict(ABOUT), "count": 1000, "samples": 100, "floors": {"fd-fashion": 0.5}}
BENT = np.where(np.arange(64 * 64).reshape(64, 64) == 1, 1.0, np.eye(64))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a NaN in the mean": ({"mean": np.where(np.arange(64) == 3, np.nan, 0)}, "the mean holds NaN"),
    "a mean of length 1": ({"mean": np.zeros(1)}, r"shapes \[1\] and \[64, 64\]"),
    "other features": ({"mean": np.zeros(3), "covariance": np.eye(3)}, "64 features against those of 3"),
    "indefinite": ({"covariance": np.diag(np.arange(64.0) - 1)}, "indefinite"),
    "asymmetric": ({"covariance": BENT}, "not symmetric"),
    "no floor": ({"facts": {**FACTS, "floors": {"fd-fashion": float("nan")}}}, "the floor is nan"),
    "a negative floor": ({"facts": {**FACTS, "floors": {"fd-fashion": -1.0}}}, "the floor is -1"),
    "no samples": ({"facts": {**FACTS, "samples": 0}}, "at N = 0"),
    "no facts": ({"facts": {}}, "about"),
    "single features of others": ({"features": np.zeros((5, 3), np.float32)}, r"\[5, 3\]"),
    "images": ({"mean": None}, "must hold the arrays"),
}


def test_statistics_of_real_images_come_back(tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(REAL.to_bytes("r"))
    read = Real.load(tmp_path / "r.npz", "r")
    assert (read.floors, read.samples, read.about, read.sha256()) == ({"fd-fashion": 0.5}, 100, ABOUT, REAL.sha256())
    np.testing.assert_array_equal(read.reference.covariance, np.eye(64))
    with pytest.raises(DataError, match="it is 'r'"):
        Real.load(tmp_path / "r.npz", "other")


@pytest.mark.parametrize("kind", BAD)
def test_damaged_statistics_name_the_file(tmp_path: Path, kind: str) -> None:
    change, message = BAD[kind]
    content = {**GOOD, "facts": FACTS, "name": "r", **change}
    content["facts"] = np.array(json.dumps(content["facts"]))
    np.savez(tmp_path / "r.npz", **{key: value for key, value in content.items() if value is not None})
    with pytest.raises(DataError, match=rf"r\.npz: is not a whole file of real statistics \(.*{message}.*deleted and"):
        Real.load(tmp_path / "r.npz")


def test_every_metric_sees_a_shift_and_knows_its_floor() -> None:
    """Real against real, and against shifted: distances rise, precision, recall and coverage fall."""
    random = np.random.default_rng(0)
    train, held_out = (random.standard_normal((300, 16)).astype(np.float32) for _ in range(2))
    real = Real(replace(ABOUT, size=16), Reference.from_features(train), 300, 300, {}, train)
    for name in ("fd-own", "kd-own", "precision-own", "recall-own", "coverage-own"):
        metric = get_metric(name)
        floor = judge(metric, Extracted(held_out, None), real, Settings()).value
        moved = judge(metric, Extracted(held_out + 1, None), real, Settings()).value
        assert (moved > floor + 0.5) if metric.kind in ("fd", "kd") else (moved < floor / 2), name


def test_what_cannot_be_judged_says_so() -> None:
    made = Extracted(np.zeros((20, 64), np.float32), None)
    with pytest.raises(DataError, match="kd-fashion: the reference holds statistics alone"):
        judge(METRICS["kd-fashion"], made, REAL, Settings())
    with pytest.raises(DataError, match="is: these features come without probabilities"):
        judge(METRICS["is"], made, REAL, Settings())
    with pytest.raises(SpaceError, match=r"fd-fashion judges images of 16x16x1, these are 32x32x3: set it to"):
        extract(fashion_space("cpu"), ArrayImages(np.zeros((9, 32, 32, 3), np.uint8)))


def test_several_sets_are_averaged_or_the_least_is_taken() -> None:
    sets = [Judged(3.0, 0.3, "influence", 1.0), Judged(5.0, 0.4, "influence", 2.0)]
    mean = of_sets(sets, "mean")
    assert (mean["value"], mean["repeats"]) == (4.0, (3.0, 5.0))
    assert mean["error"] == pytest.approx(0.25)  # of a mean of two: sqrt(.3^2 + .4^2) / 2
    assert mean["infinite"].value == pytest.approx(2.5)
    assert of_sets(sets, "minimum") == {"value": 3.0, "repeats": (3.0, 5.0)}


def test_statistics_of_a_stream_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    images, others = (random.integers(256, size=(1300, 16, 16, 1), dtype=np.uint8) for _ in range(2))
    space, metrics = fashion_space("cpu"), [METRICS["fd-fashion"], METRICS["precision-fashion"]]
    real = real_statistics(space, metrics, ArrayImages(images), ArrayImages(others[:200]), Settings())
    whole = np.concatenate([space.outputs(images[i : i + 500]).features for i in range(0, 1300, 500)])
    direct = Reference.from_features(whole)
    np.testing.assert_allclose(real.reference.covariance, direct.covariance, rtol=1e-9, atol=1e-12)
    assert real.floors["fd-fashion"] == pytest.approx(direct.distance(space.outputs(others[:200]).features), rel=1e-9)
    assert real.features is not None
    assert real.features.shape == (200, 64)


def test_some_images_of_a_stream() -> None:
    images = ArrayImages(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    some = Some(images, np.array([0, 3, 4, 9]))
    assert np.concatenate(list(some.batches(3))).ravel().tolist() == [0, 3, 4, 9]


def test_balanced_takes_each_class_in_turn() -> None:
    assert balanced(np.array([2, 1, 0, 0, 1, 2]), 5).tolist() == [2, 1, 0, 3, 4]
    with pytest.raises(DataError, match="class 0 has 1 held-out images, 2 are needed: lower evaluation"):
        balanced(np.array([0, 1, 1]), 4)
    with pytest.raises(DataError, match="class 1 has 0 held-out images, 2 are needed: add some"):
        balanced(np.array([0, 0, 2, 2]), 4)
    with pytest.raises(DataError, match="class 1 has 0 held-out"):
        balanced(np.array([0, 2**62]), 4)
    assert in_turn(np.array([5, 5, 5, 2, 7, 7])).tolist() == [3, 0, 4, 1, 5, 2]
