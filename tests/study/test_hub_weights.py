"""A study whose weights are on the Hugging Face Hub: fetched once, pinned, refused; the hub is one of this machine."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.release import CONFIG, GRID, WEIGHTS
from scaling.run.spec import load_run
from scaling.weights.folder import load_model
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from tests.release.fake_hub import Hub, connected

Fixture = Any  # conftest.py says what it is


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, released: dict[str, Path]) -> Iterator[Hub]:
    """It holds the released teacher, and nothing of it is in the cache."""
    with connected(monkeypatch) as running:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        running.files = {path.name: path.read_bytes() for path in released["teacher"].iterdir()}
        yield running


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def named(address: str) -> dict[str, Any]:
    return {"methods": ["teacher", "scd"], "teacher": {"weights": address, "steps": 0}}


def test_weights_are_fetched_once_and_pinned_to_a_commit(
    hub: Hub,
    tmp_path: Path,
    released: dict[str, Path],
    write_study: Fixture,
    homes_of: Fixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commit is part of what the run is; a branch that moves, and a net that is gone, change nothing."""
    path = write_study(tmp_path, **named("hf:a/b"))
    homes = homes_of(path)
    config = load_run(homes.of("teacher"))
    assert (config.spec.weights, config.spec.weights_commit) == (load_model(released["teacher"]).sha256, "1" * 40)
    assert load_run(homes.of("scd")).spec.weights_commit is None
    assert config.weights is not None
    assert (config.weights / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert not (config.weights / GRID).exists()
    hub.commit, asked = "2" * 40, len(hub.asked)
    again = homes_of(write_study(new(tmp_path / "again"), **named("hf:a/b")))
    assert len(hub.asked) == asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert again.runs.keys() == homes.runs.keys()
    run(homes.of("teacher"), StopRequest())
    assert len(hub.asked) == asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    other = homes_of(write_study(new(tmp_path / "other"), **named(f"hf:a/b@{hub.commit}")))
    assert load_run(other.of("teacher")).spec.weights_commit == "2" * 40
    assert other.runs.keys().isdisjoint(homes.runs)


def test_a_download_that_was_cut_short_goes_on(hub: Hub, tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path = write_study(tmp_path, **named("hf:a/b@main"))
    hub.refuses = WEIGHTS
    cut = cli("study", "plan", path)
    assert (cut.code, cut.out) == (2, "")
    assert "teacher.weights: hf:a/b@main: " in cut.err
    hub.refuses = None
    assert cli("study", "plan", path, "--json").code == 0


def test_what_was_altered_on_the_hub_is_not_taken(hub: Hub, tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    """The same strict reader as for a folder."""
    hub.files[CONFIG] = hub.files[CONFIG].replace(b'"licence": "CC-BY-4.0"', b'"licence": "MIT"')
    result = cli("study", "plan", write_study(tmp_path, **named("hf:a/b")))
    assert result.code == 2
    assert "teacher.weights: " in result.err
    assert "does not match the hash" in result.err


def test_every_key_of_weights_may_name_the_hub(
    hub: Hub, tmp_path: Path, released: dict[str, Path], write_study: Fixture, homes_of: Fixture
) -> None:
    hub.files = {path.name: path.read_bytes() for path in released["scd"].iterdir()}
    homes = homes_of(write_study(tmp_path, methods=["teacher", "scd"], scd={"weights": "hf:a/b@main"}))
    spec = load_run(homes.of("scd")).spec
    assert (spec.weights, spec.weights_commit) == (load_model(released["scd"]).sha256, "1" * 40)


def test_what_keeps_weights_from_coming_is_told_with_its_remedy(
    hub: Hub, tmp_path: Path, write_study: Fixture, cli: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(address: str) -> str:
        result = cli("study", "plan", write_study(tmp_path, **named(address)))
        assert (result.code, result.out) == (2, "")
        return result.err

    assert "teacher.weights: hf:alone: is no name on the Hub: write hf:OWNER/NAME" in told("hf:alone")
    assert "there is no such repository, or it is private" in told("hf:nobody/nothing")
    assert "hf:a/b@v9: the repository has no such revision" in told("hf:a/b@v9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "fetch it once with the net, or name a folder" in told("hf:a/b")
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name, name=name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "hf:a/b: needs huggingface_hub: pip install 'trigscale[hub]'" in told("hf:a/b")
