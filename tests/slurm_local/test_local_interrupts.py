"""run_local interrupted: Ctrl-C, SIGTERM, an error in the display. No job may outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm.graph import Job, JobGraph
from slurm.interrupts import Stopped
from slurm.local import JobEvent, JobState, run_local

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60

LAUNCHER = """
import json, os, sys
from pathlib import Path
from slurm.graph import Job, JobGraph
from slurm.interrupts import Stopped
from slurm.local import run_local

folder, grace = Path(sys.argv[1]), float(sys.argv[2])
scripts = json.loads(sys.argv[3])
jobs = [Job(name, ("/bin/sh", "-c", script), folder / "log.txt") for name, script in scripts.items()]
jobs.append(Job("pending", ("touch", str(folder / "pending")), folder / "log.txt", tuple(scripts)))
events = (folder / "events").open("w", buffering=1)

def note(event):
    if event.kind != "tick":
        print(event.kind, event.job, event.state and event.state.value, file=events)

try:
    run_local(JobGraph(jobs), workers=4, environment=os.environ, on_event=note, poll_seconds=0.01, grace_seconds=grace)
except Stopped:
    sys.exit("interrupted")
"""

# The launcher's own input is a pipe that stays open: a job that inherited it would wait in `cat` for ever.
LOOP = "cat; echo $$ > {folder}/{name}.pid; while :; do sleep 0.05; done"
SAVES = "trap 'sleep 0.3; touch {folder}/saved; exit 143' TERM; trap 'touch {folder}/int' INT; " + LOOP
STUBBORN = "trap '' TERM; trap 'touch {folder}/int' INT; " + LOOP


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass
class Launched:
    folder: Path
    process: subprocess.Popen[bytes]

    def job_pids(self) -> list[int]:
        return [int(file.read_text() or 0) for file in self.folder.glob("*.pid")]

    def interrupt(self, number: int) -> None:
        os.killpg(self.process.pid, number)  # as a terminal does: to every process of the foreground group

    def wait(self) -> None:
        assert self.process.wait(LIMIT_SECONDS) == 1
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b"interrupted\n"

    def states(self) -> dict[str, str]:
        words = [line.split() for line in (self.folder / "events").read_text().splitlines()]
        return {job: state for kind, job, state in words if kind == "finished"}


Gone = Callable[[int], bool]
Launch = Callable[..., Launched]


@pytest.fixture
def launched(tmp_path: Path, gone: Gone) -> Iterator[Launch]:
    started: list[Launched] = []

    def start(grace: float, **scripts: str) -> Launched:
        jobs = {name: script.format(folder=tmp_path, name=name) for name, script in scripts.items()}
        command = [sys.executable, "-c", LAUNCHER, str(tmp_path), str(grace), json.dumps(jobs)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environment
        )
        started.append(Launched(tmp_path, process))
        until(lambda: sum(pid > 0 for pid in started[-1].job_pids()) == len(scripts))
        return started[-1]

    yield start
    for launcher in started:
        for pid in launcher.job_pids():
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
        launcher.process.kill()
        launcher.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_jobs_may_save_and_the_stubborn_are_killed(launched: Launch, gone: Gone, number: int) -> None:
    launcher = launched(grace=3, gentle=SAVES, stubborn=STUBBORN)
    launcher.interrupt(number)
    launcher.wait()
    assert (launcher.folder / "saved").exists()
    assert not (launcher.folder / "int").exists()
    assert all(gone(pid) for pid in launcher.job_pids())
    assert launcher.states() == dict.fromkeys(["gentle", "stubborn", "pending"], "stopped")
    assert not (launcher.folder / "pending").exists()


def test_one_request_that_comes_as_two_signals_leaves_time_to_save(launched: Launch) -> None:
    launcher = launched(grace=LIMIT_SECONDS, gentle=SAVES)
    launcher.interrupt(signal.SIGTERM)
    launcher.interrupt(signal.SIGINT)
    launcher.wait()
    assert (launcher.folder / "saved").exists()


def test_a_repeated_request_ends_the_grace(launched: Launch, gone: Gone) -> None:
    launcher = launched(grace=10 * LIMIT_SECONDS, stubborn=STUBBORN)
    launcher.interrupt(signal.SIGINT)
    time.sleep(1.5)
    assert launcher.process.poll() is None
    launcher.interrupt(signal.SIGINT)
    launcher.wait()
    assert all(gone(pid) for pid in launcher.job_pids())


def test_a_job_that_is_done_within_the_grace_is_done(launched: Launch) -> None:
    launcher = launched(grace=LIMIT_SECONDS, finishes=SAVES.replace("exit 143", "exit 0"))
    launcher.interrupt(signal.SIGINT)
    launcher.wait()
    assert launcher.states() == {"finishes": "done", "pending": "stopped"}


@pytest.mark.parametrize("when_stopping", [False, True])
def test_an_error_in_the_display_leaves_no_job_running(tmp_path: Path, gone: Gone, when_stopping: bool) -> None:
    pid = tmp_path / "job.pid"
    script = (STUBBORN if when_stopping else SAVES).format(folder=tmp_path, name="job")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stopping: list[bool] = []

    def display(event: JobEvent) -> None:
        if event.kind == "tick" and pid.exists() and pid.read_text():
            if when_stopping and not stopping:
                stopping.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            raise RuntimeError("the display broke")

    graph = JobGraph([Job("job", ("/bin/sh", "-c", script), tmp_path / "log.txt")])
    with pytest.raises(RuntimeError, match="the display broke"):
        run_local(graph, workers=1, environment=os.environ, on_event=display, grace_seconds=LIMIT_SECONDS)
    assert gone(int(pid.read_text()))
    assert (tmp_path / "saved").exists() is not when_stopping
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_interrupt_in_this_process_is_raised_once_all_is_stopped(tmp_path: Path) -> None:
    states: dict[str | None, JobState | None] = {}

    def display(event: JobEvent) -> None:
        states[event.job] = event.state
        if event.kind == "started":
            os.kill(os.getpid(), signal.SIGTERM)

    graph = JobGraph([Job("job", ("sleep", "60"), tmp_path / "log.txt"), Job("next", ("true",), tmp_path / "log.txt")])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        run_local(graph, workers=1, environment=os.environ, on_event=display)
    assert stopped.value.number == signal.SIGTERM
    assert states["job"] is states["next"] is JobState.STOPPED
    assert signal.getsignal(signal.SIGTERM) is handler
