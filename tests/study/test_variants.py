"""Variants of a method: runs of their own names beside it, known by what they change; older runs keep their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaling.run.home import StudyFolder
from scaling.run.spec import RunData, load_run
from scaling.study.expand import expand
from scaling.study.open import open_study

Fixture = Any  # conftest.py says what it is
ROOT = Path(__file__).parents[2]
VARIANTS = {
    "scd_raw": {"of": "scd", "tangent": "raw", "adaptive_weighting": False},
    "m3": {"of": "scd", "segments": 3},
    "meanflow": {"of": "sct", "flow_map": True},
    "ect": {"of": "sct", "discrete_double_every": 2},
}


# The recipe of fashion.yaml before 2026-11-30.
FASHION = ["teacher.steps=500", "teacher.batch=64", "teacher.lr_decay_steps=200", "by_size={}"]
for method, steps, warmup in (("scd", 400, 150), ("sct", 250, 80)):
    keys = {"steps": steps, "batch": 64, "lr_decay_steps": 150, "lr_cooldown": 0, "warmup_steps": warmup}
    FASHION += [f"{method}.{key}={value}" for key, value in keys.items()]


@pytest.mark.parametrize(
    ("name", "changes", "runs"),
    [
        ("fashion", FASHION, {"scd-xs-8b59b8b2e37c", "sct-xs-589a6d5cc73a", "teacher-xs-930172c1a0b5"}),
        ("imagenet512", [], {"teacher-s-a619a04c354a", "sct-s-66ff7e797090", "scd-s-e2b7d90c888d"}),
    ],
)
def test_runs_of_before_the_later_keys_keep_their_names(name: str, changes: list[str], runs: set[str]) -> None:
    study = open_study(ROOT / "configs" / "study" / f"{name}.yaml", changes)
    found = {
        run.name
        for run in expand(study.config, study.family, RunData(content_sha256="", held_out_sha256="", encoder="x"))
    }
    assert runs <= found


def test_the_scaling_study_is_that_of_imagenet512() -> None:
    """Its file repeats the recipe, and no run is another."""
    names = []
    for study in (open_study(ROOT / "configs" / "study" / f"{name}.yaml") for name in ("imagenet512", "scaling")):
        data = RunData(content_sha256="", held_out_sha256="", encoder="x")
        names.append([run.name for run in expand(study.config, study.family, data)])
    assert names[0] == names[1]


def test_variants_run_beside_the_methods_and_are_compared(
    tmp_path: Path, write_study: Fixture, cli: Fixture, spawn: Fixture
) -> None:
    """Trained, sampled and judged; a row each in the report's table; planned under their names."""
    few = {"steps": 4}
    path = write_study(tmp_path, methods=["teacher"], teacher=few, scd=few, sct=few, variants=VARIANTS)
    plan = json.loads(cli("study", "plan", path, "--json").out)
    assert [run["method"] for run in plan["runs"]] == ["teacher", *VARIANTS]
    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    folder = StudyFolder(tmp_path / "runs" / "tiny")
    homes = {home.name.partition("-")[0]: home for home in folder.homes()}
    assert [*homes] == ["teacher", *VARIANTS]
    for name, home in homes.items():
        scores, spec = home.read_scores(), load_run(home.path).spec
        assert scores is not None
        assert (scores.method, spec.variant) == (name, None if name == "teacher" else name)
        assert spec.method == ("teacher" if name == "teacher" else VARIANTS[name]["of"])
    lines = (folder.report / "scores.csv").read_text().splitlines()
    steps = {(line.split(",")[1], int(line.split(",")[2])) for line in lines[1:]}
    assert steps == {("teacher", 3), ("m3", 3), *((name, n) for name in VARIANTS if name != "m3" for n in (1, 2))}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_has_its_runs(path: Path) -> None:
    """Each run of its own, students after their teacher; latents.yaml takes an encoder that its commands make."""
    if path.stem == "latents":
        pytest.skip("its encoder is made by `make latents`")
    study = open_study(path)
    runs = expand(study.config, study.family, RunData(content_sha256="", held_out_sha256="", encoder="x"))
    assert len({run.name for run in runs}) == len(runs)
    entries = len(study.config.methods) + len(study.config.variants)
    assert len(runs) == entries * len(study.config.sizes) * len(study.config.seeds)
    for run in runs:
        assert run.parent is None or run.parent in [one.spec for one in runs]
