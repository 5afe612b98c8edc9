"""A study that is killed, stopped or damaged, and launched again, ends bit for bit like one that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling.training import checkpoint

METHODS = ("teacher", "scd", "sct")
ANYONE = ("launcher", "worker", "all")
Until = Callable[[Callable[[], Any]], None]
Fixture = Any  # the classes of conftest.py cannot be imported under --import-mode=importlib


def metrics(home: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def saved(home: Path) -> list[Path]:
    return sorted((home / "checkpoints").glob("step-*.safetensors"))


def assert_as_if_uninterrupted(home: Path, reference: Path) -> None:
    """Scores, logged steps, final weights and samples are those of the uninterrupted run; nothing half-written."""
    assert (home / "scores.json").read_bytes() == (reference / "scores.json").read_bytes()
    assert metrics(home) == metrics(reference)
    final, expected = (checkpoint.load(saved(folder)[-1]) for folder in (home, reference))
    assert final.metadata == expected.metadata
    assert all(tensor.equal(final.tensors[name]) for name, tensor in expected.tensors.items())
    for path in (reference / "samples").iterdir():
        assert (home / "samples" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in (home / "checkpoints").iterdir() if "partial" in path.name] == []


def copy_home(source: Path, target: Path) -> Path:
    """A finished run as it was before its last checkpoint, under another roof."""
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(source / name, target)
    shutil.copytree(source / "checkpoints", target / "checkpoints")
    return target


def rewind(home: Path) -> Path:
    """Take a finished run back to before it was sampled; its last checkpoint."""
    shutil.rmtree(home / "samples")
    (home / "scores.json").unlink()
    return saved(home)[-1]


@pytest.fixture
def copied(tmp_path: Path, finished: Fixture) -> Fixture:
    """The finished study, moved to this test's folder."""
    study = tmp_path / "runs" / "tiny"
    shutil.copytree(finished.study, study)
    for config in study.glob("*/config.yaml"):
        config.write_text(config.read_text().replace(str(finished.study), str(study)))
    return type(finished)(study, finished.runs)


@pytest.mark.slow
def test_the_uninterrupted_study_logs_every_step(finished: Fixture) -> None:
    for method, steps in (("teacher", 30), ("scd", 18), ("sct", 18)):
        home = finished.of(method)
        assert [line["step"] for line in metrics(home)] == [*range(4, steps, 4), steps]
        assert [path.name for path in saved(home)] == [f"step-{n:08d}.safetensors" for n in (steps - 2, steps)]


@pytest.mark.slow
def test_kills_at_random_moments(
    tmp_path: Path, write_study: Fixture, finished: Fixture, spawn: Fixture, until: Until
) -> None:
    path, study = write_study(tmp_path), tmp_path / "runs" / "tiny"
    rng = random.Random(20)

    def left() -> set[str]:
        return {str(file) for pattern in ("checkpoints/*", "samples/*", "scores.json") for file in study.glob(f"*/{pattern}")}

    struck: list[str] = []
    for number in range(7):
        launched, before = spawn("scaling.cli", "study", "run", path), left()
        # The first is struck early, when no run may have begun; the others go on until they have left something new.
        if number:
            until(lambda: left() - before or launched.process.poll() is not None)  # noqa: B023
        time.sleep(rng.uniform(0, 0.4 if number else 4))
        whom = ANYONE[number % len(ANYONE)]
        workers = launched.workers()
        if launched.process.poll() is None and (workers or whom == "launcher"):
            struck.append(whom)
            for pid in rng.sample(workers, 1 if whom == "worker" else len(workers)) if whom != "launcher" else []:
                os.kill(pid, signal.SIGKILL)
        if whom != "worker":
            launched.kill()
        launched.wait()
    print(f"struck: {struck}")
    assert set(struck) == set(ANYONE)
    assert len(struck) >= 4

    result = spawn("scaling.cli", "study", "run", path).wait()
    assert result.code == 0, result.err
    for method in METHODS:
        assert_as_if_uninterrupted(study / finished.of(method).name, finished.of(method))
    logs = [log.read_text() for log in study.glob("*/log.txt")]
    assert any("continuing after step" in log for log in logs)


DIES_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import data_pipeline.files
from scaling import worker

flush, what = os.fsync, sys.argv.pop()

def die(descriptor):
    name = Path(f"/proc/self/fd/{descriptor}").resolve().name
    if name.startswith(f".{what}") and name.endswith(".partial"):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)

data_pipeline.files.os.fsync = die
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_kills_in_the_middle_of_writing(
    tmp_path: Path, homes: Fixture, finished: Fixture, spawn: Fixture
) -> None:
    home = homes.of("teacher")
    script = tmp_path / "dies_while_writing.py"
    script.write_text(DIES_WHILE_WRITING)
    for what, left in (("step-00000008", 4), ("step-00000030", 28)):
        killed = spawn(script, home, what)
        assert killed.wait().code == -signal.SIGKILL
        (partial,) = (home / "checkpoints").glob(".*.partial")
        assert partial.name.startswith(f".{what}")
        assert checkpoint.load(saved(home)[-1]).step == left
    killed = spawn(script, home, "scores.json")
    assert killed.wait().code == -signal.SIGKILL
    assert not (home / "scores.json").exists()
    result = spawn("scaling.worker", home).wait()
    assert result.code == 0, result.err
    assert_as_if_uninterrupted(home, finished.of("teacher"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def flip_counter(path: Path) -> None:
    """Another number of updates, which the next update's averages would take for true."""
    data = path.read_bytes()
    assert data.count(b'updates\\": 30') == 1
    path.write_bytes(data.replace(b'updates\\": 30', b'updates\\": 70'))


@pytest.mark.slow
def test_damaged_checkpoints_are_set_aside(copied: Fixture, finished: Fixture, spawn: Fixture) -> None:
    home = copied.of("teacher")
    for damage in (truncate, flip_weight, flip_counter):
        last = rewind(home)
        damage(last)
        result = spawn("scaling.worker", home).wait()
        assert result.code == 0, result.err
        assert f"WARNING {last}" in result.err
        assert "continuing after step 28 of 30" in result.err
        assert last.with_name(last.name + ".damaged").exists()
        assert_as_if_uninterrupted(home, finished.of("teacher"))


@pytest.mark.slow
def test_a_student_refuses_a_teacher_that_is_not_whole(
    tmp_path: Path, copied: Fixture, finished: Fixture, write_study: Fixture, spawn: Fixture
) -> None:
    """The checkpoint before the last is whole, but a student distilled from it would be another student."""
    teacher, student = copied.of("teacher"), copied.of("scd")
    shutil.rmtree(student / "checkpoints")
    rewind(student)
    truncate(saved(teacher)[-1])
    path = write_study(tmp_path)
    refused = spawn("scaling.cli", "study", "run", path).wait()
    assert refused.code == 2
    assert f"{saved(teacher)[-1]}: is not a whole safetensors file" in refused.err
    assert f"delete {teacher}/scores.json" in refused.err
    assert saved(student) == []
    (teacher / "scores.json").unlink()
    result = spawn("scaling.cli", "study", "run", path).wait()
    assert result.code == 0, result.err
    for method in METHODS:
        assert_as_if_uninterrupted(copied.of(method), finished.of(method))


@pytest.mark.slow
def test_an_orphaned_worker_stops_and_a_new_launch_goes_on(
    tmp_path: Path, write_study: Fixture, finished: Fixture, spawn: Fixture, until: Until
) -> None:
    path = write_study(tmp_path, methods=["teacher"])
    home = tmp_path / "runs" / "tiny" / finished.of("teacher").name
    orphaned = spawn("scaling.cli", "study", "run", path)
    until(lambda: saved(home))
    orphaned.kill()
    result = spawn("scaling.cli", "study", "run", path).wait()
    assert result.code == 0, result.err
    assert orphaned.workers() == []
    log = (home / "log.txt").read_text()
    step = log.partition("stopped after step ")[2].partition(" of 30, which is saved")[0]
    assert f"continuing after step {step} of 30" in log
    assert_as_if_uninterrupted(home, finished.of("teacher"))


@pytest.mark.slow
def test_a_worker_saves_the_step_it_reached_when_asked_to_stop(
    homes: Fixture, finished: Fixture, spawn: Fixture, until: Until
) -> None:
    home = homes.of("teacher")
    for number in (signal.SIGTERM, signal.SIGUSR2):
        worker, before = spawn("scaling.worker", home), saved(home)
        until(lambda: set(saved(home)) - set(before))  # noqa: B023
        worker.kill(number)
        result = worker.wait()
        assert result.code == 75, result.err
        step = checkpoint.load(saved(home)[-1]).step
        assert f"stopped after step {step} of 30, which is saved" in result.err
        assert 0 <= step - metrics(home)[-1]["step"] < 4
    result = spawn("scaling.worker", home).wait()
    assert result.code == 0, result.err
    assert_as_if_uninterrupted(home, finished.of("teacher"))


@pytest.mark.slow
def test_control_c_stops_cleanly_and_says_how_to_continue(
    tmp_path: Path, write_study: Fixture, finished: Fixture, spawn: Fixture, until: Until
) -> None:
    path = write_study(tmp_path, methods=["teacher"], launch={"checkpoint_seconds": 3600})
    home = tmp_path / "runs" / "tiny" / finished.of("teacher").name
    launched = spawn("scaling.cli", "study", "run", path)
    until(lambda: (home / "metrics.jsonl").exists() and metrics(home))
    launched.kill(signal.SIGINT)
    result = launched.wait()
    assert result.code == 130
    assert "The same command again continues" in result.err
    assert "Traceback" not in result.err
    assert launched.workers() == []
    (only,) = saved(home)
    assert f"stopped after step {checkpoint.load(only).step} of 30, which is saved" in (home / "log.txt").read_text()
    assert spawn("scaling.cli", "study", "run", path).wait().code == 0
    assert (home / "scores.json").read_bytes() == (finished.of("teacher") / "scores.json").read_bytes()
    assert yaml.safe_load((home / "config.yaml").read_text())["launch"]["checkpoint_seconds"] == 3600


def test_control_c_before_anything_ran(tmp_path: Path, write_study: Fixture, spawn: Fixture, until: Until) -> None:
    path = write_study(tmp_path)
    launched = spawn("scaling.cli", "study", "run", path)
    until((tmp_path / "runs" / "tiny" / ".lock").exists)
    launched.kill(signal.SIGINT)
    result = launched.wait()
    assert result.code == 130
    assert "The same command again continues" in result.err
    assert "Traceback" not in result.err
