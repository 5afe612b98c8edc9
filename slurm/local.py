"""Runs a job graph as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from slurm.graph import Job, JobGraph
from slurm.interrupts import Interrupts, Stopped, noted
from slurm.restarts import Attempt, Verdict, decide, progress

LAUNCHER_PID = "TRIGSCALE_LAUNCHER_PID"
TICK_SECONDS = 0.25


class JobState(Enum):
    """How a job ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"  # a parent failed or was skipped
    STOPPED = "stopped"  # the launcher was interrupted before the job was done


@dataclass(frozen=True)
class JobEvent:
    """What the launcher tells its display.

    started: job. finished: job, state, returncode (negative: the signal that killed it; None: it never ran) and the
    seconds it ran. again: a job ended and will be started again, for `reason`. tick: nothing happened; seconds since
    the launch began.
    """

    kind: Literal["started", "finished", "again", "tick"]
    job: str | None
    state: JobState | None
    returncode: int | None
    seconds: float
    reason: str = ""


def run_local(
    graph: JobGraph,
    *,
    workers: int,
    environment: Mapping[str, str],
    on_event: Callable[[JobEvent], None],
    poll_seconds: float = 0.05,
    grace_seconds: float = 30,
) -> dict[str, JobState]:
    """Runs every job once its parents are done, at most `workers` at a time, longest remaining chain first.

    Each job leads a session of its own, so that a terminal's Ctrl-C reaches the launcher alone; whatever is left of its
    process group is killed when the job ends. `environment` is the jobs' whole environment, to which
    TRIGSCALE_LAUNCHER_PID is added: a job whose parent is another process has been orphaned and should stop. stdin is
    empty, stdout and stderr are appended to the job's log, which must not be a link. Exit code 0 is DONE; whether
    another one is FAILED, or the job is started again, says `slurm.restarts.decide`. A failed job's descendants are
    SKIPPED and all else goes on.

    SIGINT, SIGTERM or SIGUSR2, or an error in `on_event`: running jobs get SIGTERM (each job's first process alone,
    which knows how to end its own) and `grace_seconds` to save, then their groups get SIGKILL, at once when a signal is
    repeated; no job outlives the call. A job that exits with 0 in that time is DONE, all others are STOPPED. Must be
    called from the main thread.

    Returns the state of each job by name. Raises Stopped after one of the signals, ValueError when workers is below 1,
    OSError when a log cannot be opened, and what `on_event` raises.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least 1 is needed to run a job")
    with noted() as interrupts:
        launch = _Launch(graph, workers, environment, on_event, poll_seconds, interrupts)
        try:
            launch.run()
        except BaseException:
            launch.on_event = _ignore  # it may be what failed
            raise
        finally:
            launch.stop(grace_seconds)
    if interrupts.number is not None:
        raise Stopped(interrupts.number)
    return launch.states


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    started: float


class _Launch:
    """The state of one call of run_local: a job is in `states` (ended), in `running`, or waiting."""

    def __init__(
        self,
        graph: JobGraph,
        workers: int,
        environment: Mapping[str, str],
        on_event: Callable[[JobEvent], None],
        poll_seconds: float,
        interrupts: Interrupts,
    ) -> None:
        self.graph = graph
        self.workers = workers
        self.environment = {**environment, LAUNCHER_PID: str(os.getpid())}
        self.on_event = on_event
        self.poll_seconds = poll_seconds
        self.interrupts = interrupts
        self.states: dict[str, JobState] = {}
        self.running: dict[str, _Running] = {}
        self.attempts: dict[str, list[Attempt]] = {name: [] for name in graph.jobs}
        self.launched = self.ticked = time.monotonic()
        priority = graph.critical_path()
        self.by_priority = sorted(graph.jobs.values(), key=lambda job: -priority[job.name])

    def run(self) -> None:
        """Returns when every job has ended or an interrupt was requested."""
        while not self.interrupts.requested:
            self._collect(stopping=False)
            self._fill()
            if not self.running:
                return
            self._pause()

    def stop(self, grace_seconds: float) -> None:
        """Ends what runs, SIGTERM first, and marks what never ran; does nothing when every job has ended."""
        deadline = time.monotonic() + grace_seconds
        try:
            for running in self.running.values():
                os.kill(running.process.pid, signal.SIGTERM)
            while self.running and time.monotonic() < deadline and not self.interrupts.repeated:
                self._pause()
                self._collect(stopping=True)
        finally:
            for running in self.running.values():
                _reap(running.process)
        for name in list(self.running):
            self._end(name, stopping=True)
        for name in self.graph.jobs:
            if name not in self.states:
                self._finish(name, JobState.STOPPED)

    def _fill(self) -> None:
        for job in self.by_priority:
            if len(self.running) >= self.workers:
                return
            if self._is_ready(job):
                self._start(job)

    def _is_ready(self, job: Job) -> bool:
        if job.name in self.states or job.name in self.running:
            return False
        ended = all(name in self.states for name in job.after)
        return ended and all(self.states.get(parent) is JobState.DONE for parent in job.parents)

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab", opener=not_through_links) as log:
            try:
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
                self.running[job.name] = _Running(process, time.monotonic())
            except (OSError, ValueError) as error:  # no such program, not executable, a NUL in an argument
                log.write(f"cannot start {job.command[0]!r}: {error}\n".encode())
        if job.name in self.running:
            self.on_event(JobEvent("started", job.name, None, None, 0.0))
        else:
            self._finish(job.name, JobState.FAILED)

    def _collect(self, *, stopping: bool) -> None:
        """Records the jobs that have ended."""
        for name in [name for name, running in self.running.items() if _has_ended(running.process)]:
            self._end(name, stopping=stopping)

    def _end(self, name: str, *, stopping: bool) -> None:
        """DONE on exit code 0, else STOPPED where all is stopped; FAILED or to be started again by the rules."""
        running, job = self.running.pop(name), self.graph.jobs[name]
        returncode, seconds = _reap(running.process), time.monotonic() - running.started
        self.attempts[name].append(Attempt(returncode, progress(job.progress)))
        decision = decide(self.attempts[name], job.restarts)
        if decision.verdict is Verdict.AGAIN and not stopping and job.restarts:
            self.on_event(JobEvent("again", name, None, returncode, seconds, decision.reason))
            return
        failed = JobState.STOPPED if stopping else JobState.FAILED
        state = JobState.DONE if decision.verdict is Verdict.DONE else failed
        self._finish(name, state, returncode, seconds)

    def _finish(self, name: str, state: JobState, returncode: int | None = None, seconds: float = 0.0) -> None:
        self.states[name] = state
        self.on_event(JobEvent("finished", name, state, returncode, seconds))
        if state is JobState.FAILED:
            for descendant in self.graph.descendants(name):
                if descendant not in self.states:
                    self._finish(descendant, JobState.SKIPPED)

    def _pause(self) -> None:
        now = time.monotonic()
        if now - self.ticked >= TICK_SECONDS:
            self.ticked = now
            self.on_event(JobEvent("tick", None, None, None, now - self.launched))
        time.sleep(self.poll_seconds)


def not_through_links(path: str, flags: int) -> int:
    """A log lies where others may write: behind a link it would be another file, at a pipe the launcher would wait."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves a zombie: until it is reaped its number can belong to no other process or group.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Kills the process and what is left of its group; returns its exit code. May be repeated."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _ignore(_event: JobEvent) -> None:
    pass
