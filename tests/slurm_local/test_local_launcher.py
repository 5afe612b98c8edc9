"""run_local with real processes: order, isolation of failures, logs and environment of a job."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.graph import Job, JobGraph
from slurm.local import JobEvent, JobState, run_local

# Ends with an error after some 20 seconds, so that a broken launcher fails a test and does not hang it.
AWAIT = 'await() { n=0; while [ ! -e "$1" ]; do n=$((n+1)); [ $n -gt 400 ] && exit 9; sleep 0.05; done; }; '
Gone = Callable[[int], bool]


class Recorder:
    def __init__(self, on_tick: Callable[[], None] = lambda: None) -> None:
        self.events: list[JobEvent] = []
        self.on_tick = on_tick

    def __call__(self, event: JobEvent) -> None:
        if event.kind == "tick":
            self.on_tick()
        self.events.append(event)

    def started(self) -> list[str | None]:
        return [event.job for event in self.events if event.kind == "started"]

    def finished(self) -> dict[str | None, JobEvent]:
        return {event.job: event for event in self.events if event.kind == "finished"}


def shell(folder: Path, name: str, script: str, *parents: str, cost: float = 1.0) -> Job:
    return Job(name, ("/bin/sh", "-c", AWAIT + script), folder / "logs" / f"{name}.txt", parents, cost)


def launch(jobs: list[Job], record: Recorder, workers: int = 2) -> dict[str, JobState]:
    return run_local(JobGraph(jobs), workers=workers, environment=os.environ, on_event=record, poll_seconds=0.01)


def test_a_diamond_runs_parents_first(tmp_path: Path) -> None:
    order = tmp_path / "order"
    note = f'echo "$0" >> {shlex.quote(str(order))}'
    jobs = [
        Job(name, ("/bin/sh", "-c", note, name), tmp_path / "log.txt", parents)
        for name, parents in [("end", ("left", "right")), ("left", ("top",)), ("right", ("top",)), ("top", ())]
    ]
    record = Recorder()
    assert launch(jobs, record) == dict.fromkeys(["end", "left", "right", "top"], JobState.DONE)
    lines = order.read_text().split()
    assert (lines[0], lines[-1], sorted(lines)) == ("top", "end", ["end", "left", "right", "top"])
    assert all((event.returncode, event.state) == (0, JobState.DONE) for event in record.finished().values())
    assert all(event.seconds > 0 for event in record.finished().values())


def test_the_longest_chain_starts_first(tmp_path: Path) -> None:
    jobs = [
        shell(tmp_path, "small", ":", cost=2),
        shell(tmp_path, "head", ":", cost=1),
        shell(tmp_path, "tail", ":", "head", cost=5),
        shell(tmp_path, "big", ":", cost=4),
    ]
    record = Recorder()
    launch(jobs, record, workers=1)
    assert record.started() == ["head", "tail", "big", "small"]


def test_two_workers_overlap(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    jobs = [shell(tmp_path, "a", f"touch {a}; await {b}"), shell(tmp_path, "b", f"touch {b}; await {a}")]
    assert set(launch(jobs, Recorder()).values()) == {JobState.DONE}


def test_never_more_jobs_than_workers(tmp_path: Path) -> None:
    lock = f"mkdir {tmp_path}/lock && sleep 0.05 && rmdir {tmp_path}/lock"
    jobs = [shell(tmp_path, str(index), lock) for index in range(4)]
    assert set(launch(jobs, Recorder(), workers=1).values()) == {JobState.DONE}


def test_a_failure_skips_its_descendants_and_nothing_else(tmp_path: Path) -> None:
    jobs = [
        shell(tmp_path, "bad", "echo because >&2; exit 3"),
        shell(tmp_path, "child", ":", "bad"),
        shell(tmp_path, "grandchild", ":", "child", "good"),
        shell(tmp_path, "good", ":"),
        shell(tmp_path, "heir", ":", "good"),
    ]
    record = Recorder()
    states = launch(jobs, record)
    assert {name for name, state in states.items() if state is JobState.DONE} == {"good", "heir"}
    assert states["bad"] is JobState.FAILED
    assert states["child"] is states["grandchild"] is JobState.SKIPPED
    assert record.finished()["bad"].returncode == 3
    assert record.finished()["child"].returncode is None
    assert (tmp_path / "logs" / "bad.txt").read_text() == "because\n"
    assert set(record.started()) == {"bad", "good", "heir"}


def test_a_command_that_does_not_exist_fails_with_the_reason_in_its_log(tmp_path: Path) -> None:
    absent = Job("absent", ("no-such-program-here",), tmp_path / "absent.txt", cost=9)
    nul = Job("nul", ("echo", "\0"), tmp_path / "nul.txt", cost=9)
    jobs = [absent, nul, shell(tmp_path, "child", ":", "absent"), shell(tmp_path, "other", ":")]
    record = Recorder()
    assert launch(jobs, record, workers=1) == {
        "absent": JobState.FAILED,
        "nul": JobState.FAILED,
        "child": JobState.SKIPPED,
        "other": JobState.DONE,
    }
    log = absent.log.read_text()
    assert "no-such-program-here" in log
    assert "No such file" in log
    assert "null byte" in nul.log.read_text()
    assert record.finished()["absent"].returncode is None


@pytest.mark.parametrize("name", ["two words", 'it\'s "quoted"', "$(touch hole); `x` * \\", "line\nbreak", "é ☂"])
def test_names_and_arguments_reach_the_job_untouched(tmp_path: Path, name: str) -> None:
    log = tmp_path / "folder with 'quotes'" / "log.txt"
    states = launch([Job(name, ("printf", "[%s]", name, ""), log), Job("child", ("true",), log, (name,))], Recorder())
    assert states == {name: JobState.DONE, "child": JobState.DONE}
    assert log.read_text() == f"[{name}][]"


def test_environment_input_and_log_of_a_job(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    job = Job("job", ("/bin/sh", "-c", 'cat; echo "$TRIGSCALE_LAUNCHER_PID $PPID $A"; echo error >&2'), log)
    environment = {"PATH": os.environ["PATH"], "A": "b c"}
    for _ in range(2):
        run_local(JobGraph([job]), workers=1, environment=environment, on_event=Recorder())
    assert log.read_text() == f"{os.getpid()} {os.getpid()} b c\nerror\n" * 2
    assert environment.keys() == {"PATH", "A"}


def test_ticks_come_while_jobs_run(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    record = Recorder(on_tick=flag.touch)
    assert launch([shell(tmp_path, "waits", f"await {flag}")], record) == {"waits": JobState.DONE}


def test_a_killed_job_has_failed_and_leaves_nothing_behind(tmp_path: Path, gone: Gone) -> None:
    leader, helper, ready = tmp_path / "leader", tmp_path / "helper", tmp_path / "ready"

    def kill() -> None:
        if ready.exists():
            os.kill(int(leader.read_text()), signal.SIGKILL)

    script = f"sleep 60 & echo $! > {helper}; echo $$ > {leader}; touch {ready}; wait"
    jobs = [shell(tmp_path, "killed", script), shell(tmp_path, "child", ":", "killed"), shell(tmp_path, "other", ":")]
    record = Recorder(on_tick=kill)
    states = launch(jobs, record)
    assert states == {"killed": JobState.FAILED, "child": JobState.SKIPPED, "other": JobState.DONE}
    assert record.finished()["killed"].returncode == -signal.SIGKILL
    pause = threading.Event()
    for _ in range(200):
        if gone(int(helper.read_text())):
            break
        pause.wait(0.05)
    assert gone(int(helper.read_text()))


@pytest.mark.parametrize("workers", [0, -1])
def test_refuses_to_run_without_workers(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {workers}"):
        launch([shell(tmp_path, "never", ":")], Recorder(), workers=workers)
    assert not (tmp_path / "logs").exists()


def test_a_log_that_cannot_be_opened_stops_the_launch(tmp_path: Path, gone: Gone) -> None:
    (tmp_path / "file").write_text("")
    pid = tmp_path / "pid"
    jobs = [
        shell(tmp_path, "first", f"echo $$ > {pid}; exec sleep 60"),
        shell(tmp_path, "opens", f"await {pid}", cost=0.5),
        Job("no log", ("true",), tmp_path / "file" / "log.txt", ("opens",)),
    ]
    with pytest.raises(OSError, match="file"):
        launch(jobs, Recorder())
    assert gone(int(pid.read_text()))


@pytest.mark.parametrize("make", [Path.symlink_to, lambda log, target: os.mkfifo(log)])
def test_a_log_is_no_link_and_no_pipe(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """Else its lines would be appended to a file of somebody else's choice, or wait for a reader."""
    log, other = tmp_path / "log.txt", tmp_path / "other"
    other.write_text("mine")
    make(log, other)
    with pytest.raises(OSError, match=str(log)):
        run_local(JobGraph([Job("job", ("true",), log)]), workers=1, environment={}, on_event=lambda _: None)
    assert other.read_text() == "mine"
