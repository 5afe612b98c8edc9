"""TensorBoard and Weights & Biases across restarts and kills, and when they are missing or fail."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from scaling.config.families import CONFIGS
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.run.spec import RunData, RunSpec
from scaling.study.checks import check_launch
from scaling.study.expand import expand
from scaling.study.open import open_study
from scaling.training.observe import trackers
from scaling.training.observe.metrics import MetricsLog
from scaling.training.observe.trackers import Forgiving, TrackerError, open_trackers
from tests.ranks import context

BATCH = 8
BLOCK, HEADER = 32768, 7  # of W&B's offline files


def teacher() -> RunSpec:
    study = open_study(CONFIGS / "study" / "fashion.yaml")
    return expand(study.config, study.family, RunData(content_sha256="a", held_out_sha256="b", encoder="rgb"))[0].spec


def launch_part(home: Path, launch: Launch, resume: int, until: int, killed: bool) -> None:
    """One launch of a run that logs every second step and is killed, or comes to its end."""
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    log = MetricsLog(home, resume, BATCH, open_trackers(launch, home, teacher(), resume))
    for step in range(resume + 2, until + 1, 2):
        log.write(step, {"loss": 1 / step})
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    log.close()


def part(home: Path, launch: Launch, resume: int, until: int, killed: bool = False) -> None:
    """`launch_part` in a process of its own, as every launch is."""
    process = context().Process(target=launch_part, args=(home, launch, resume, until, killed))
    process.start()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if killed else 0)


def draw(path: Path) -> Path:
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)
    return path


def test_no_tracker_is_the_default(tmp_path: Path) -> None:
    assert open_trackers(Launch(), tmp_path, teacher(), 0) == []
    assert list(tmp_path.iterdir()) == []


ASKED = [(Launch(tensorboard=True), "tensorboard", "true", "false"), (Launch(wandb="p"), "wandb", "'p'", "null")]


@pytest.mark.parametrize(("launch", "package", "value", "without"), ASKED)
def test_a_missing_package_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: Launch, package: str, value: str, without: str
) -> None:
    said = rf"launch.{package}: {value}, but {package} is not .* 'trigscale\[{package}\]', or set it to {without}"
    find = importlib.util.find_spec
    # An empty folder of the package's name is found too, such as W&B leaves where it runs.
    for found in (None, ModuleSpec(package, None, is_package=True)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, f=found: f if name == package else find(name))
        with pytest.raises(TrackerError, match=said):
            open_trackers(launch, tmp_path, teacher(), 0)
        study = open_study(CONFIGS / "study" / "fashion.yaml", [f"launch.{package}={getattr(launch, package)}"])
        with pytest.raises(ConfigError, match=said):
            check_launch(study.config, study.family, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Mock()
    for action in (broken.write, broken.image, broken.close):
        action.side_effect = ConnectionError("no route")
    log = MetricsLog(tmp_path, 0, BATCH, [Forgiving("Board", broken)])
    with caplog.at_level(logging.WARNING):
        log.write(1, {"loss": 1.0})
        log.write(2, {"loss": 1.0})
        log.images(2, [tmp_path / "step-00000002-1.png"])
        log.close()
    assert [call[0] for call in broken.mock_calls] == ["write", "write", "image", "close"]
    (record,) = caplog.records
    assert record.getMessage() == (
        "Board fails and may miss what follows; training goes on: ConnectionError('no route')"
    )


def test_tensorboard_shows_every_step_once_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launch = Launch(tensorboard=True)
    part(tmp_path, launch, 0, 10, killed=True)
    time.sleep(1.1)  # event files are told apart, and put in order, by the second
    log = MetricsLog(tmp_path, 6, BATCH, open_trackers(launch, tmp_path, teacher(), 6))
    log.write(8, {"loss": 0.25})
    log.images(8, [draw(tmp_path / "step-00000008-2.png")])
    log.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in shown.Scalars("loss")]
    assert scalars == [(2, pytest.approx(1 / 2)), (4, 0.25), (6, pytest.approx(1 / 6)), (8, 0.25)]
    assert [event.value for event in shown.Scalars("images")] == [16, 32, 48, 64]
    (picture,) = shown.Images("samples/2")
    assert (picture.step, picture.width, picture.height) == (8, 8, 6)


def rows(home: Path) -> list[list[tuple[int, dict[str, str]]]]:
    """(step, {name: JSON}) of each row in each offline file of W&B, which is a leveldb log of protobuf records."""
    files = sorted((home / "wandb").glob("offline-run-*/*.wandb"))
    return [list(_rows(path.read_bytes())) for path in files]


def _rows(data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    at, whole = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, whole = Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "history":
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                yield record.history.step.num, values


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield Launch(wandb="project")
    wandb.teardown()


def test_wandb_goes_on_with_the_same_run_and_sends_nothing_twice(tmp_path: Path, offline: Launch) -> None:
    part(tmp_path, offline, 0, 10)
    time.sleep(1.1)  # its folders are told apart by the second
    log = MetricsLog(tmp_path, 6, BATCH, open_trackers(offline, tmp_path, teacher(), 6))
    for step in (8, 10, 12):
        log.write(step, {"loss": 1 / step})
    log.images(10, [draw(tmp_path / "step-00000010-2.png")])
    log.images(12, [draw(tmp_path / "step-00000012-2.png")])
    log.close()
    first, second = rows(tmp_path)
    assert [step for step, _ in first] == [2, 4, 6, 8, 10]
    assert [step for step, _ in second] == [12]
    assert [float(values["loss"]) for _, values in first] == [1 / step for step in (2, 4, 6, 8, 10)]
    assert "samples/2" in {name.partition("/_type")[0] for name in second[0][1]}
    known = json.loads((tmp_path / "wandb.json").read_text())
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert known["step"] == 12
    assert known["id"].startswith(f"{teacher().identity()}-")
    assert len(folders) == 2
    assert all(name.endswith(f"-{known['id']}") for name in folders)


def test_wandb_catches_up_on_what_a_kill_kept_from_it(tmp_path: Path, offline: Launch) -> None:
    part(tmp_path, offline, 0, 10, killed=True)
    time.sleep(1.1)
    part(tmp_path, offline, 6, 12)
    assert [step for step, _ in rows(tmp_path)[-1]] == [2, 4, 6, 8, 10, 12]


@pytest.mark.nightly
def test_another_home_of_the_same_run_is_another_run_of_wandb(tmp_path: Path, offline: Launch) -> None:
    ids = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        part(tmp_path / name, offline, 0, 2)
        ids.add(json.loads((tmp_path / name / "wandb.json").read_text())["id"])
    assert len(ids) == 2


class FakeRun:
    """What `wandb.init` returns, with a server that knows all rows before `step`."""

    def __init__(self, step: int, offline: bool) -> None:
        self.step, self.offline, self.logged = step, offline, []

    def log(self, _: Mapping[str, Any], step: int) -> None:
        self.logged.append(step)

    def finish(self) -> None:
        raise TimeoutError("no route")


@pytest.mark.parametrize(("offline", "wanted"), [(True, [8, 10]), (False, [6, 8, 10])])
def test_what_was_sent_is_known_from_the_server_or_offline_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, wanted: list[int]
) -> None:
    (tmp_path / "wandb.json").write_text('{"id": "abc", "step": 6}')
    run = FakeRun(5, offline)
    monkeypatch.setattr(pytest.importorskip("wandb"), "init", lambda **_: run)
    log = MetricsLog(tmp_path, 2, BATCH, open_trackers(Launch(wandb="p"), tmp_path, teacher(), 2))
    for step in (4, 6, 8, 10):
        log.write(step, {"loss": 1.0})
    log.close()
    assert run.logged == wanted
    # It did not end well: that the rest arrived is not taken for granted.
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "abc", "step": 6}


def test_a_step_counts_as_sent_once_its_row_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(pytest.importorskip("wandb"), "init", lambda **_: FakeRun(0, True))
    monkeypatch.setattr(trackers.time, "monotonic", lambda: clock)
    (board,) = open_trackers(Launch(wandb="p"), tmp_path, teacher(), 0)
    safe = []
    for step in range(2, 14, 2):
        clock += 20
        board.write(step, {"loss": 1.0})
        board.write(step, {"more": 1.0})
        safe.append(json.loads((tmp_path / "wandb.json").read_text())["step"])
    # The row of step 2 is whole when that of 4 begins, at 40 s, and on the disk 30 s after that.
    assert safe == [-1, -1, -1, 2, 2, 6]


def test_wandb_that_refuses_to_start_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    for error in (wandb.Error("No API key"), ConnectionError("No API key")):
        monkeypatch.setattr(wandb, "init", Mock(side_effect=error))
        with pytest.raises(TrackerError, match=r"launch.wandb: project 'p' .*No API key.* set WANDB_MODE=offline"):
            open_trackers(Launch(wandb="p"), tmp_path, teacher(), 0)
