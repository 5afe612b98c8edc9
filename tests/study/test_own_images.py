"""A study on one's own RGB images from a file of them to the report, judged by a ruler of their own; and not judged."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from scaling.evaluation.spaces.inception_network import random_network
from slurm.graph import JobGraph

Fixture = Any
FAMILY = {
    "name": "rgb8",
    "common": {
        **{"resolution": 8, "latent_channels": 3, "num_classes": 3, "channel_mult": [1, 2], "blocks_per_level": 1},
        **{"attention_resolutions": [4], "head_channels": 8},
    },
    "sizes": {"a": {"model_channels": 8}},
}
RECIPE = {"steps": 4, "batch": 16, "lr": 0.02, "lr_decay_steps": 10, "lr_rampup_images": 10}


class Never:
    """A request to stop that never comes."""

    def __call__(self) -> bool:
        return False

    def within(self, seconds: float) -> AbstractContextManager[None]:
        return nullcontext()


def run_here(graph: JobGraph, **_: Any) -> None:
    """The runs of a study one after the other in this process."""
    from scaling.work.stages import run

    for job in graph.jobs.values():
        run(Path(job.command[-1]), Never())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Fixture) -> Path:
    """A folder with 300 images and as many held out in shards, and a study of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scaling.study.run.run_local", run_here)
    none: dict[str, list[Any]] = {"curves": [], "overview": [], "training": [], "samples": []}
    monkeypatch.setattr("scaling.report.build.draw_pictures", lambda *_: none)  # tests/report draws
    random = np.random.default_rng(0)
    for name in ("train", "held"):
        labels = np.arange(300) % 3
        images = random.integers(100, size=(300, 8, 8, 3), dtype=np.uint8)
        images[np.arange(300), :, :, labels] += 100
        np.savez(f"{name}.npz", images=images, labels=labels)
        assert cli("data", "pack", f"{name}.npz", "--to", name, "--encoder", "rgb-v1").code == 0
    Path("family.yaml").write_text(yaml.safe_dump(FAMILY))
    study = {
        "name": "own", "family": "family.yaml", "sizes": ["a"], "methods": ["teacher", "scd"], "teacher": RECIPE,
        "scd": {**RECIPE, "teacher_ema": 0.1, "warmup_steps": 2}, "ema": {"sigma_rel": [0.05, 0.1]},
        "data": {"source": "train", "held_out": "held", "encoder": "rgb-v1"},
        "sampling": {"teacher_steps": 2, "teacher_ema": 0.1, "student_ema": 0.1, "batch": 50},
        "evaluation": {"samples": 150, "metric": ["fd-own", "precision-own"], "ruler": "r.safetensors"},
        "launch": {"device": "cpu", "ema_snapshot_steps": 1},
    }  # fmt: skip
    Path("study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path


def train_ruler(cli: Fixture) -> dict[str, Any]:
    command = ("ruler", "train", "train", "--held-out", "held", "--to", "r.safetensors", "--epochs", "30", "--json")
    return json.loads(cli(*command).out)


def test_own_images_are_judged_by_a_ruler_of_their_own(place: Path, cli: Fixture) -> None:
    assert "evaluation.ruler: name the file" in cli("study", "run", "study.yaml", "evaluation.ruler=null").err
    assert "evaluation.ruler: no such file" in cli("study", "run", "study.yaml").err
    made = train_ruler(cli)
    assert made["accuracy"] > 0.9
    floors = {one["altered"]: one["floors"] for one in made["sight"]}
    assert all(floors[name] > 2 for name in ("noise of 0.2", "3x3 blur", "without class 0", "black"))
    assert "images of 8x8x3, trained on train to tell 3 classes apart" in cli("ruler", "show", "r.safetensors").out
    assert (result := cli("study", "run", "study.yaml")).code == 0, result.err
    (home,) = Path("runs/own").glob("scd-*")
    scores = json.loads((home / "scores.json").read_text())
    first, second = scores["metrics"]
    assert (first["metric"], first["network_sha256"], first["n"]) == ("fd-own", made["sha256"], 150)
    assert (second["metric"], second["k"]) == ("precision-own", 3)
    assert first["scores"][0]["value"] > 5 * first["floor"]
    report = Path("runs/own/report/index.html").read_text()
    assert "FD-own" in report
    assert "precision, own features" in report
    assert "evaluation.metric: fd-own" not in report


def test_a_search_finds_its_best_and_goes_on(place: Path, cli: Fixture) -> None:
    train_ruler(cli)
    assert cli("study", "run", "study.yaml").code == 0
    (home,) = Path("runs/own").glob("scd-*")
    command = ("evaluate", home, "--reference", "train", "--metrics", "fd-own", "--ruler", "r.safetensors", "--json")
    command += ("--search", "sigma-rel,intermediate-t", "--steps", 2, "--seeds", "0-149", "--to", "found")
    short = json.loads(cli(*command, "--budget", 2).out)
    assert short["budget_spent"]
    times = {path.name: path.stat().st_mtime_ns for path in Path("found").glob("*.npz")}
    assert len(times) == 2
    whole = json.loads(cli(*command, "--budget", 12).out)
    assert {path.name: path.stat().st_mtime_ns for path in Path("found").glob("*.npz")}.items() >= times.items()
    assert whole["value"] == min(one["value"] for one in whole["evaluations"]) <= short["value"]
    low, high = whole["cannot_be_told_from_the_best"]["intermediate-t"]
    assert low <= whole["best"]["intermediate-t"] <= high
    refused = cli(*command[:-2], "--to", "found", "--budget", 2, "--search", "guidance")
    assert refused.code == 2
    assert "--search guidance: this student was distilled without guidance" in refused.err


def test_a_study_that_is_not_judged_ends_with_samples(place: Path, cli: Fixture) -> None:
    result = cli("study", "run", "study.yaml", "evaluation={metric: none}", "methods=[teacher]")
    assert result.code == 0, result.err
    (home,) = Path("runs/own").glob("teacher-*")
    assert json.loads((home / "scores.json").read_text())["metrics"] == []
    with np.load(home / "samples" / "steps-2.npz") as file:
        assert file["images"].shape == (100, 8, 8, 3)
    assert "the study is not judged" in Path("runs/own/report/index.html").read_text()
    assert cli("study", "status", "study.yaml").code == 0


@pytest.mark.nightly
def test_a_study_is_judged_by_fid_with_random_weights(place: Path, cli: Fixture) -> None:
    torch.save(random_network(0).state_dict(), "inception.pth")
    evaluation = "evaluation={samples: 100, metric: [fid, kid, is], inception: inception.pth, resamples: 20}"
    result = cli("study", "run", "study.yaml", evaluation, "methods=[teacher]")
    assert result.code == 0, result.err
    (home,) = Path("runs/own").glob("teacher-*")
    fid, kid, score = json.loads((home / "scores.json").read_text())["metrics"]
    assert (fid["metric"], fid["resize"], kid["metric"], score["metric"]) == ("fid", "clean", "kid", "is")
    assert fid["scores"][0]["method"] == "simulation"
    assert "FID" in Path("runs/own/report/index.html").read_text()
