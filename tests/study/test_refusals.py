"""What is refused leaves nothing behind, and what others left in a study's folder is neither followed nor kept."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files import clear_partials, scratch_folder, write_text_atomic
from scaling.config.validation import ConfigError
from scaling.run import locks
from scaling.run.locks import LockError, locked
from scaling.study.open import open_study
from scaling.study.run import saved_so_far
from scaling.training.observe.metrics import MetricsLog

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("make", [Path.symlink_to, lambda path, target: os.mkfifo(path)])
def test_a_lock_is_no_link_and_no_pipe(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    lock, other = tmp_path / ".lock", tmp_path / "other"
    other.write_text("mine")
    make(lock, other)
    with pytest.raises(OSError, match=str(lock)), locked(lock):
        pass
    assert other.read_text() == "mine"


def test_metrics_are_not_appended_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even through one that takes the file's place in between."""
    other = tmp_path / "other"
    other.write_text("")
    monkeypatch.setattr("scaling.training.observe.metrics.write_text_atomic", lambda path, _: path.symlink_to(other))
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path, 0, 1)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with (
        pytest.raises(LockError, match=r"\.lock: cannot be locked .*no flock.*launch\.folder"),
        locked(tmp_path / ".lock"),
    ):
        pass


def test_who_holds_a_lock_is_shown_without_its_escapes(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("process 1\x1b[2J")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockError, match=r"process 1\\x1b\[2J: wait for it"), locked(path):
            pass


def test_only_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    """By the exact form of its name; a link among it is not followed."""
    kept = {".mine.partial", "a.0123456789ab.partial", ".a.0123456789AB.partial", "other"}
    for name in (*kept, ".a.0123456789ab.partial"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.0123456789ab.partial" / "deep").mkdir(parents=True)
    (tmp_path / ".link.0123456789ab.partial").symlink_to(tmp_path / "other")
    with scratch_folder(tmp_path) as scratch:
        (tmp_path / "copies").mkdir()
        shutil.copytree(scratch, tmp_path / "copies" / scratch.name)
    clear_partials(tmp_path, tmp_path / "copies", tmp_path / "absent")
    assert entries(tmp_path) == {*kept, "copies"}
    assert entries(tmp_path / "copies") == set()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u202eb", "a/b", "..", "", "x" * 101])
def test_names_that_are_no_folder_or_cannot_be_shown(tmp_path: Path, write_study: Fixture, name: str) -> None:
    with pytest.raises(ConfigError, match="name") as refused:
        open_study(write_study(tmp_path, name=name))
    assert not {"\x1b", "\u202e"} & set(str(refused.value))


def test_a_refused_launch_leaves_nothing(
    tmp_path: Path, write_study: Fixture, shards: dict[str, str], cli: Fixture
) -> None:
    """Shards that do not fit, and held-out shards that are damaged after the training shards were found whole."""
    own = Path(shutil.copytree(shards["held_out"], tmp_path / "own"))
    data = own / "shard-000000.tar"
    data.write_bytes(data.read_bytes()[:-100])
    for changes, told in (
        ({"family": "img64", "sizes": ["s"], "by_size": {}}, "choose a family with their latent_channels"),
        ({"data": {**shards, "held_out": str(own)}}, "shard-000000.tar"),
    ):
        result = cli("study", "run", write_study(tmp_path, **changes))
        assert result.code == 2
        assert told in result.err
        assert entries(tmp_path) == {"study.yaml", "own"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"family": "img64", "sizes": ["s"], "by_size": {}}, "data.source fashion .* holds latents .*choose a family"),
        ({"data": {"encoder": "rgb-v1"}}, "encoder 'rgb-v1' takes .*encoders that take these: fashion-s2d-v1"),
        ({"evaluation": {"samples": 20_000}}, "1000 held-out images, 2000 are needed: lower evaluation.samples"),
    ],
)
def test_the_embedded_images_are_not_packed_for_a_study_that_is_refused(
    tmp_path: Path, write_study: Fixture, cli: Fixture, change: dict[str, Any], told: str
) -> None:
    data = {"source": "fashion", "held_out": None} | change.pop("data", {})
    result = cli("study", "run", write_study(tmp_path, data=data, **change))
    assert result.code == 2
    assert re.search(told, result.err)
    assert entries(tmp_path) == {"study.yaml"}


def test_images_that_the_ruler_was_not_trained_on_are_said_before_anything_runs(
    tmp_path: Path, write_study: Fixture, cli: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning of `study run`, own shards or others; of the embedded images there is nothing to say."""
    own = {"evaluation": {"samples": 1000}}  # refused right after
    embedded = {"evaluation": {"samples": 20_000}, "data": {"source": "fashion", "held_out": None}}
    for changes, count in ((own, 1), (embedded, 0)):
        caplog.clear()
        assert cli("study", "run", write_study(tmp_path, **changes)).code == 2
        said = [
            record.getMessage() for record in caplog.records if "classifier of Fashion-MNIST" in record.getMessage()
        ]
        assert len(said) == count
        assert all("never trained on such" in text and "shards" in text for text in said)


def test_what_is_saved_is_said(homes: Fixture) -> None:
    runs = [*homes.runs.values()]
    teacher, scd, sct = (homes.of(method) for method in ("teacher", "scd", "sct"))
    assert saved_so_far(homes.study, runs) == "0 of 3 runs are done; of the others nothing yet"
    write_text_atomic(teacher / "scores.json", "")
    (scd / "checkpoints" / "step-00000012").mkdir(parents=True)
    said = f"1 of 3 runs are done; saved: {scd.name} up to step 12 of 18"
    assert saved_so_far(homes.study, runs) == f"{said}; of the others nothing yet"
    (sct / "checkpoints" / "step-00000018").mkdir(parents=True)
    assert saved_so_far(homes.study, runs) == f"{said}, {sct.name} up to step 18 of 18"
