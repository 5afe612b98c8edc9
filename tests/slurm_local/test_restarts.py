"""The rules by which a job that ended is started again, the same here and on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slurm.graph import Job, JobGraph
from slurm.local import JobEvent, JobState, run_local
from slurm.restarts import Attempt, Verdict, decide, last_step, progress

DONE, AGAIN, FAILED = Verdict.DONE, Verdict.AGAIN, Verdict.FAILED


@pytest.mark.parametrize(
    ("attempts", "verdict", "reason"),
    [
        ([(0, 9)], DONE, ""),
        ([(1, 5)], FAILED, "it ended with code 1"),
        ([(2, 0)], FAILED, "it ended with code 2"),
        ([(75, 5)], AGAIN, "continues at step 5"),
        ([(75, 5), (75, 5)], AGAIN, ""),
        ([(75, 5), (75, 5), (75, 5)], FAILED, "3 starts in a row got no further than at step 5"),
        ([(75, 5), (75, 5), (75, 6)], AGAIN, ""),
        ([(None, 5), (75, 5), (None, 5)], FAILED, "3 starts in a row got no further"),
        ([(70, 5)], AGAIN, ""),
        ([(-9, 5), (-9, 6)], AGAIN, ""),
        ([(-9, 5), (70, 5)], FAILED, "it crashed twice at step 5, the last time with code 70"),
        ([(70, 5), (75, 5), (-11, 5)], FAILED, "it crashed twice at step 5, the last time with signal 11"),
        ([(70, 1), (70, 2), (70, 3), (70, 4)], FAILED, "it crashed at step 4 with code 70, crash 4"),
    ],
)
def test_the_verdict(attempts: list[tuple[int | None, int]], verdict: Verdict, reason: str) -> None:
    decision = decide([Attempt(code, (step,)) for code, step in attempts], restarts=3)
    assert decision.verdict is verdict
    assert reason in decision.reason


def test_progress_is_read_from_what_a_job_leaves(tmp_path: Path) -> None:
    log, folder = tmp_path / "metrics.jsonl", tmp_path / "samples"
    assert progress((log, folder)) == (0, 0)
    log.write_text('{"step": 4}\n{"step": 8}\nnot json\n{"step": 9')
    folder.mkdir()
    (folder / "steps-1.npz").touch()
    (folder / ".steps-2.npz.partial").touch()
    assert progress((log, folder)) == (8, 1)
    log.write_text('{"step": 1}\n' + '{"loss": 0.5}\n' * 9000)  # longer than what is looked at
    assert last_step(log) == 0


def test_a_crash_is_tried_again_on_this_machine(tmp_path: Path) -> None:
    """One that goes on crashing further on is started again; one that crashes at the same step twice has failed."""
    script = """
import pathlib, sys
log = pathlib.Path(sys.argv[1]); step = len(log.read_text().splitlines()) if log.exists() else 0
if step < int(sys.argv[2]):
    log.open("a").write('{"step": %d}\\n' % (step + 1))
sys.exit(0 if step + 1 >= int(sys.argv[3]) else 70)
"""

    def job(name: str, most: int) -> Job:
        log = tmp_path / f"{name}.jsonl"
        command = (sys.executable, "-S", "-c", script, str(log), str(most), "3")
        return Job(name, command, tmp_path / f"{name}.txt", progress=(log,), restarts=9)

    events: list[JobEvent] = []
    graph = JobGraph([job("gets-there", 9), job("stuck", 1)])
    states = run_local(graph, workers=1, environment={}, on_event=events.append, poll_seconds=0.01)
    assert states == {"gets-there": JobState.DONE, "stuck": JobState.FAILED}
    again = [event.job for event in events if event.kind == "again"]
    assert sorted(filter(None, again)) == ["gets-there", "gets-there", "stuck"]


def test_what_is_after_jobs_waits_for_their_end_however_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [
        Job("report", ("/bin/sh", "-c", "cat"), log, after=("good", "bad", "child"), cost=9),
        Job("good", ("/bin/sh", "-c", "exit 0"), log),
        Job("bad", ("/bin/sh", "-c", "exit 1"), log),
        Job("child", ("/bin/sh", "-c", "exit 0"), log, parents=("bad",)),
    ]
    ended: list[str | None] = []

    def note(event: JobEvent) -> None:
        if event.kind == "finished":
            ended.append(event.job)

    states = run_local(JobGraph(jobs), workers=4, environment={}, on_event=note, poll_seconds=0.01)
    assert states["report"] is JobState.DONE
    assert ended[-1] == "report"
