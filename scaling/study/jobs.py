"""The jobs of a study: one graph, which this machine or a cluster runs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from scaling.plan.costs import seconds_estimate
from scaling.run.home import StudyFolder
from scaling.run.spec import PlannedRun
from scaling.work.worker import COMMAND
from slurm.graph import Job

RESTARTS = 20  # of a run after crashes, unless it crashes twice at the same step
REPORT = "report"
REPORT_COMMAND = (sys.executable, "-P", "-m", "scaling.report")


def run_jobs(
    folder: Path, runs: Sequence[PlannedRun], done: Collection[str], command: Sequence[str] = COMMAND
) -> list[Job]:
    """A job for each run that is not done, after the run that it starts from if that is not done either."""
    pending = [run for run in runs if run.name not in done]
    return [_job(StudyFolder(folder), run, {run.name for run in pending}, command) for run in pending]


def report_job(folder: Path, jobs: Sequence[Job]) -> Job:
    """The report of what is done, after these jobs."""
    after = tuple(job.name for job in jobs)
    return Job(REPORT, (*REPORT_COMMAND, str(folder)), folder / "report.log", after=after, cost=0.0, kind=REPORT)


def _job(folder: StudyFolder, run: PlannedRun, pending: Collection[str], command: Sequence[str]) -> Job:
    home = folder.home(run.name)
    return Job(
        name=run.name,
        command=(*command, str(home.path)),
        log=home.log,
        parents=(run.parent.name(),) if run.parent and run.parent.name() in pending else (),
        cost=seconds_estimate(run.spec),
        kind=run.spec.label,
        progress=(home.metrics, home.samples),
        restarts=RESTARTS,
    )
