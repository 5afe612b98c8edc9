"""A study that is killed, stopped or damaged, and launched again, ends bit for bit like one that was left alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.training.checkpoints import checkpoint

Until = Callable[[Callable[[], Any]], None]
Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(tmp_path: Path, finished: Fixture) -> Fixture:
    """The finished study, moved to this test's folder."""
    return finished.copy(tmp_path)


@pytest.fixture
def launched_homes(tmp_path: Path, finished: Fixture) -> Fixture:
    """Where this test's study will be once it is launched."""
    return type(finished)(tmp_path / "runs" / "tiny", finished.runs)


def test_the_uninterrupted_study_logs_every_step(finished: Fixture) -> None:
    for method, steps in (("teacher", 30), ("scd", 18), ("sct", 18)):
        assert [line["step"] for line in finished.metrics(method)] == [*range(4, steps, 4), steps]
        assert [path.name for path in finished.saved(method)] == [f"step-{n:08d}" for n in (steps - 2, steps)]


def test_a_fresh_interpreter_ends_like_a_fork(
    tmp_path: Path, write_study: Fixture, finished: Fixture, launched_homes: Fixture, spawn: Fixture
) -> None:
    """The other tests fork their processes from one that has imported everything."""
    result = spawn("scaling", "study", "run", write_study(tmp_path, methods=["teacher"]), fresh=True).wait()
    assert result.code == 0, result.err
    launched_homes.assert_as(finished, "teacher")


DIES_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import data_pipeline.files
from scaling.work import worker

flush, what = os.fsync, sys.argv.pop()

def die(descriptor):
    path = Path(f"/proc/self/fd/{descriptor}").resolve()
    if any(name.startswith(f".{what}.") and name.endswith(".partial") for name in (path.name, path.parent.name)):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)

data_pipeline.files.os.fsync = die
sys.exit(worker.main())
"""


def test_kills_in_the_middle_of_writing(tmp_path: Path, homes: Fixture, finished: Fixture, spawn: Fixture) -> None:
    home = homes.of("teacher")
    script = tmp_path / "dies_while_writing.py"
    script.write_text(DIES_WHILE_WRITING)
    # In the data of a checkpoint, in its manifest, and in the hint of which is the newest.
    for what, partial, left in (
        ("step-00000008", "step-00000008", 4),
        ("step-00000030", "step-00000030", 28),
        ("checkpoint.json", "step-00000030", 28),
        ("newest", "newest", 30),
    ):
        assert spawn(script, home, what).wait().code == -signal.SIGKILL
        (found,) = (home / "checkpoints").glob(".*.partial")
        assert found.name.startswith(f".{partial}.")
        assert checkpoint.load(homes.saved("teacher")[-1]).step == left
    assert spawn(script, home, "scores.json").wait().code == -signal.SIGKILL
    assert not (home / "scores.json").exists()
    result = spawn("scaling.work.worker", home).wait()
    assert result.code == 0, result.err
    homes.assert_as(finished, "teacher")


DATA, MANIFEST = "rank-00000.safetensors", "checkpoint.json"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def flip_counter(path: Path) -> None:
    """Another number of updates than there were: it weighs the next averages."""
    data = path.read_bytes()
    assert data.count(b'"updates": 30') == 1
    path.write_bytes(data.replace(b'"updates": 30', b'"updates": 70'))


def test_damaged_checkpoints_are_set_aside(copied: Fixture, finished: Fixture, spawn: Fixture) -> None:
    for damage, name, told in (
        (truncate, DATA, "has [0-9]+ of [0-9]+ bytes"),
        (truncate, MANIFEST, "is not whole JSON"),
        (flip_weight, DATA, "its content does not match its hash, it was damaged"),
        (flip_counter, MANIFEST, "does not match its hash, it was altered"),
    ):
        last = copied.rewind("teacher")
        damage(last / name)
        result = spawn("scaling.work.worker", copied.of("teacher")).wait()
        assert result.code == 0, result.err
        assert re.search(f"WARNING {re.escape(str(last / name))}: {told}", result.err)
        assert "continuing after step 28 of 30" in result.err
        assert last.with_name(last.name + ".damaged").exists()
        copied.assert_as(finished, "teacher")


def test_a_student_refuses_a_teacher_that_is_not_whole(
    tmp_path: Path, copied: Fixture, finished: Fixture, write_study: Fixture, spawn: Fixture
) -> None:
    """The checkpoint before the last is whole, but what is distilled from it would be another student."""
    path, last = write_study(tmp_path), copied.saved("teacher")[-1]
    copied.rewind("scd")
    shutil.rmtree(copied.of("scd") / "checkpoints")
    truncate(last / DATA)
    refused = spawn("scaling.work.worker", copied.of("scd")).wait()
    assert refused.code == 2
    size = (last / DATA).stat().st_size
    assert f"{last / DATA}: has {size} of " in refused.err
    remedy = copied.of("teacher") / "scores.json"
    assert f"delete {remedy}" in refused.err
    assert copied.saved("scd") == []
    remedy.unlink()
    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    copied.assert_as(finished)


def test_an_orphaned_worker_stops_and_a_new_launch_goes_on(
    tmp_path: Path, write_study: Fixture, finished: Fixture, launched_homes: Fixture, spawn: Fixture, until: Until
) -> None:
    path = write_study(tmp_path, methods=["teacher"])
    orphaned = spawn("scaling", "study", "run", path)
    until(lambda: launched_homes.saved("teacher"))
    orphaned.kill()
    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    assert orphaned.workers() == []
    log = (launched_homes.of("teacher") / "log.txt").read_text()
    step = log.partition("stopped after step ")[2].partition(" of 30, which is saved")[0]
    assert f"continuing after step {step} of 30" in log
    launched_homes.assert_as(finished, "teacher")


def test_a_worker_saves_the_step_it_reached_when_asked_to_stop(
    homes: Fixture, finished: Fixture, spawn: Fixture, until: Until
) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2):
        worker, before = spawn("scaling.work.worker", homes.of("teacher")), homes.saved("teacher")
        until(lambda: set(homes.saved("teacher")) - set(before))  # noqa: B023
        worker.kill(number)
        result = worker.wait()
        assert result.code == 75, result.err
        step = checkpoint.load(homes.saved("teacher")[-1]).step
        assert f"stopped after step {step} of 30, which is saved" in result.err
        assert 0 <= step - homes.metrics("teacher")[-1]["step"] < 4
    result = spawn("scaling.work.worker", homes.of("teacher")).wait()
    assert result.code == 0, result.err
    homes.assert_as(finished, "teacher")


def test_control_c_stops_cleanly_and_says_how_to_continue(
    tmp_path: Path, write_study: Fixture, finished: Fixture, launched_homes: Fixture, spawn: Fixture, until: Until
) -> None:
    """Before that, a second launch is refused and leaves the first alone."""
    path = write_study(tmp_path, methods=["teacher"], launch={"checkpoint_seconds": 3600})
    home = launched_homes.of("teacher")
    launched = spawn("scaling", "study", "run", path)
    until(lambda: (home / "metrics.jsonl").exists() and launched_homes.metrics("teacher"))
    (worker,) = launched.workers()
    os.kill(worker, signal.SIGSTOP)  # it must not be done before the second launch has started
    second = spawn("scaling", "study", "run", path).wait()
    assert second.code == 2
    holder = f"is in use by process {launched.process.pid} on"
    assert f"error: {launched_homes.study}: {holder}" in second.err
    assert launched.process.poll() is None
    launched.kill(signal.SIGINT)
    os.kill(worker, signal.SIGCONT)
    result = launched.wait()
    assert result.code == 130
    assert "The same command again continues" in result.err
    assert "Traceback" not in result.err
    assert launched.workers() == []
    (only,) = launched_homes.saved("teacher")
    assert f"stopped after step {checkpoint.load(only).step} of 30, which is saved" in (home / "log.txt").read_text()
    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    launched_homes.assert_as(finished, "teacher")


def test_control_c_before_anything_ran(tmp_path: Path, write_study: Fixture, spawn: Fixture, until: Until) -> None:
    launched = spawn("scaling", "study", "run", write_study(tmp_path), fresh=True)
    until((tmp_path / "runs" / "tiny" / ".lock").exists)
    launched.kill(signal.SIGINT)
    result = launched.wait()
    assert result.code == 130
    assert "The same command again continues" in result.err
    assert "Traceback" not in result.err
