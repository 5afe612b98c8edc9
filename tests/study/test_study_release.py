"""`trigscale study release`: all networks of a study, and one card that compares them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from models import load_release
from scaling.weights.folder import load_model

Fixture = Any  # conftest.py says what it is


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, finished: Fixture) -> Path:
    """The releases of the tiny study. Not to be changed."""
    from scaling.release.make import Options
    from scaling.release.whole_study import release_study

    to = tmp_path_factory.mktemp("study") / "to"
    made = release_study(finished.study, to, Options(licence="CC-BY-4.0"))
    assert made.left_out == ()
    return to


def test_every_run_is_released_beside_one_card(released: Path) -> None:
    found = {path.name for path in released.iterdir()}
    assert found == {"teacher-xs", "scd-xs", "sct-xs", "README.md", "SHA256SUMS", "distance.png", "ratio.png"}
    card = (released / "README.md").read_text()
    for name in ("teacher-xs", "scd-xs", "sct-xs"):
        load_release(released / name)
        assert f"[{name}]({name})" in card
        assert load_model(released / name).sha256[:16] in card
    for said in ("license: cc-by-4.0", "![Scores against multiply-adds](distance.png)", "sCD, 2 steps", "device-hours"):
        assert said in card
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=False).returncode == 0


def test_the_set_verifies_until_something_in_it_is_altered(released: Path, tmp_path: Path, cli: Fixture) -> None:
    result = cli("release", "verify", released)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("every pixel the same") == 3
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    path = copy / "sct-xs" / "scores.json"
    path.write_text(path.read_text() + " ")
    result = cli("release", "verify", copy)
    assert (result.code, str(path) in result.err) == (2, True)


def test_runs_that_are_not_done_are_left_out_and_said(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    homes = finished.copy(tmp_path)
    (homes.of("sct") / "scores.json").unlink()
    result = cli("study", "release", homes.study, "--to", tmp_path / "to")
    assert (result.code, result.err) == (0, "")
    assert f"not done, and left out: {homes.of('sct').name}" in result.out
    assert "it names no licence" in result.out
    assert not (tmp_path / "to" / "sct-xs").exists()
    assert f"**Not here:** runs that were not done: {homes.of('sct').name}" in (tmp_path / "to/README.md").read_text()


def test_a_run_that_cannot_be_released_leaves_nothing(finished: Fixture, tmp_path: Path, cli: Fixture) -> None:
    homes = finished.copy(tmp_path)
    shutil.rmtree(homes.of("sct") / "checkpoints")
    result = cli("study", "release", homes.study, "--to", tmp_path / "to")
    assert (result.code, str(homes.of("sct")) in result.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
