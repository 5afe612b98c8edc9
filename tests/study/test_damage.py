"""Every file of a study's folder may be damaged: it is told by name, set aside, and made again by the same command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.study.damages import FINE, outcome, start, templates

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another(path: Path) -> None:
    """What another program might have written: whole JSON of another form."""
    path.write_text('{"train": "long", "runs": "many"}')


def bad_line(path: Path) -> None:
    """In the middle, as after a crash of the machine: NULs, other bytes, JSON that is no line."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 40 + b"\n", b"\xff{]\n", b'{"step": true}\n', *lines[2:]]))


# A pattern below the study's folder, and what happens to the one file that it means.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "teacher-*/scores.json": folder,
    "scd-*/scores.json": cut,
    "sct-*/scores.json": empty,
    "teacher-*/timings.json": cut,
    "scd-*/timings.json": folder,
    "sct-*/timings.json": another,
    "teacher-*/samples/steps-3.npz": cut,
    "scd-*/samples/steps-2.npz": folder,
    "sct-*/metrics.jsonl": bad_line,
    "teacher-*/checkpoints/newest": empty,
    "scd-*/config.yaml": cut,
    "environment.json": empty,
    "reference-*.npz": cut,
    "real.npz": empty,
}


def damage(study: Path) -> list[Path]:
    """The files that were hurt."""
    hurt: list[Path] = []
    for pattern, kind in DAMAGES.items():
        (path,) = study.glob(pattern)
        kind(path)
        hurt.append(path)
    return hurt


@pytest.mark.slow
def test_whatever_is_damaged_is_told_and_made_again(
    tmp_path: Path, finished: Fixture, write_study: Fixture, cli: Fixture, spawn: Fixture
) -> None:
    """All at once, as a file system that lost its latest writes leaves a study; then what names its runs, too."""
    homes, path = finished.copy(tmp_path), write_study(tmp_path)
    data = homes.study.parent / "data"
    data.mkdir()
    for run in homes.runs.values():
        for content in (run.spec.data.content_sha256, run.spec.data.held_out_sha256):
            (data / f"verified-{content[:12]}.json").write_text('{"shard')
    hurt = damage(homes.study)
    for command in ("status", "report"):
        assert cli("study", command, path).code in (0, 2)  # config.yaml of a run is cut
    cut(homes.study / "study.json")
    for command in ("status", "report"):
        result = cli("study", command, path)
        assert result.code == 2
        assert "study.json: " in result.err
        assert "`trigscale study run` makes it again" in result.err
    launched = spawn("scaling", "study", "run", path).wait()
    assert launched.code == 0, launched.err
    logs = "".join((homes.of(method) / "log.txt").read_text() for method in ("teacher", "scd", "sct"))
    told = launched.err + logs
    assert "Traceback" not in told
    unsaid = {"metrics.jsonl", "newest", "config.yaml", "real.npz"}  # counted by status, a hint, written by each launch
    assert [str(one) for one in hurt if one.name not in unsaid and f"{one}" not in told] == []
    for method in ("teacher", "scd", "sct"):
        ours, theirs = homes.of(method), finished.of(method)
        assert (ours / "scores.json").read_bytes() == (theirs / "scores.json").read_bytes()
        assert all((ours / "samples" / one.name).read_bytes() == one.read_bytes() for one in theirs.glob("samples/*"))
    states = {one["run"].split("-")[0]: one for one in json.loads(cli("study", "status", path, "--json").out)}
    assert {one["state"] for one in states.values()} == {"done"}
    assert states["teacher"]["damaged"] == states["scd"]["damaged"] == []
    assert states["sct"]["damaged"] == [f"{homes.of('sct')}/metrics.jsonl: 3 damaged lines, left out"]


def test_status_names_damaged_scores_and_shows_the_rest(
    tmp_path: Path, finished: Fixture, write_study: Fixture, cli: Fixture
) -> None:
    """With what makes them again; of the report tests/report/test_report_build.py says the same."""
    homes, path = finished.copy(tmp_path), write_study(tmp_path)
    scores = homes.of("scd") / "scores.json"
    whole = scores.read_bytes()
    for kind in (empty, cut, another, folder):
        scores.write_bytes(whole)
        kind(scores)
        result = cli("study", "status", path, "--json")
        assert result.code == 0
        assert f"warning: {scores}: " in result.err
        assert "`trigscale study run` makes it again" in result.err
        assert [one["state"] for one in json.loads(result.out)] == ["done", "sampled", "done"]


@pytest.mark.nightly
def test_damages_drawn_at_random(tmp_path: Path) -> None:
    """The right scores at the end, or a refusal by name; benchmarks/damage.py draws as many as it is asked for."""
    templates(tmp_path)
    endings = [outcome(start(tmp_path, number, seed=1)) for number in range(16)]
    assert [one for one in endings if one.ending not in FINE] == []
