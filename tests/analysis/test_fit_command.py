"""`trigscale fit` and `trigscale study advise`: words in, JSON and files out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from scaling.analysis.table import TableError
from scaling.cli.main import app
from scaling.study.open import open_study
from tests.analysis.test_scaling_table import write_scores


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    app([*words, "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def test_a_published_table_is_fitted_and_predicted_from(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "fit", "published/scm-imagenet512.csv", "--predict", "xxl", "--hold-out", "2")
    (analysis,) = found["analyses"]
    assert analysis["ratios"][0]["mean"]["value"] == pytest.approx(1.346, abs=5e-4)
    assert [len(law["held_out"]) for law in analysis["laws"]] == [2] * 7
    teacher = analysis["predictions"][0]["prediction"]
    assert teacher["power"]["low"] < 1.73 < teacher["power"]["high"]  # what XXL has
    assert teacher["beyond"] == 1.0


def test_several_metrics_are_several_analyses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Size,Params,FID,IS\ns,2e8,4,100\nm,4e8,3,120\nl,8e8,2.4,150\n")
    words = ("fit", str(path), "--column", "fd=FID", "--column", "fd=IS")
    found = answered(capsys, *words)
    assert [(one["metric"], one["axis"]) for one in found["analyses"]] == [("FID", "parameters"), ("IS", "parameters")]
    assert [one["laws"][0]["alpha"]["value"] > 0 for one in found["analyses"]] == [
        True,
        False,
    ]  # more is better: below 0
    assert [one["metric"] for one in answered(capsys, *words, "--metric", "is")["analyses"]] == ["IS"]


def test_surfaces_isoflops_and_other_laws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    n = np.exp(random.uniform(np.log(5e7), np.log(1e10), 40))
    d = np.exp(random.uniform(np.log(1e9), np.log(3e11), 40))
    score = 1.7 + 400 * n**-0.34 + 2000 * d**-0.37
    path = tmp_path / "t.csv"
    lines = [f"{a:.9g},{3 * a * b:.9g},{y:.9g}" for a, b, y in zip(n, d, score, strict=True)]
    path.write_text("\n".join(["parameters,training,loss", *lines]))
    words = ("fit", str(path), "--law", "surface", "--predict", "training=1e21")
    (found,) = answered(capsys, *words)["analyses"]
    assert found["surface"]["alpha"]["value"] == pytest.approx(0.34, abs=1e-3)
    best, images, _ = found["optima"]["training=1e21"]
    assert 3 * best["value"] * images["value"] == pytest.approx(1e21)
    with pytest.raises(TableError, match="--law cubic: give surface or isoflop"):
        app(["fit", str(path), "--law", "cubic"], standalone_mode=False)
    with pytest.raises(TableError, match="give training=MACS"):
        app(["fit", str(path), "--law", "surface", "--predict", "xl"], standalone_mode=False)


def test_the_folder_of_a_study_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, size in enumerate(("s", "m", "l")):
        scores = [{"steps": 1, "nfe": 1, "fd": 8.0 / (i + 1)}]
        write_scores(tmp_path, run=f"scd-{size}-0", size=size, macs=10**6 * 2**i, scores=scores)
    (found,) = answered(capsys, "fit", str(tmp_path))["analyses"]
    assert (found["metric"], found["n"], len(found["distances"])) == ("fd-fashion", 5000, 3)


def test_advice_keeps_to_its_budget_and_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("study", "advise", "fashion", f"launch.folder={tmp_path}", "--target", "l", "--budget", "0.5")
    found = answered(capsys, *words)
    assert 0 < found["hours"] <= 0.5
    assert sum(one["hours"] for one in found["runs"]) == pytest.approx(found["hours"])
    assert "l" not in {one["size"] for one in found["runs"]}
    for law in ("power_law", "with_floor"):
        assert found["predicted"][law]["after"] < found["predicted"][law]["before"]
    assert sum(found["variance_at_target"].values()) == pytest.approx(1)
    app([*words, "--dry"], standalone_mode=False)
    for number, text in enumerate(capsys.readouterr().out.split("---\n")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        config = open_study(path).config
        assert set(config.sizes) <= {one["size"] for one in found["runs"]}
        assert yaml.safe_load(text)["seeds"] == list(range(len(config.seeds)))
