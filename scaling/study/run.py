"""`study run`: from a study file to scores and report, continuing whatever an earlier launch left unfinished."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.files import clear_partials
from scaling.config.sections import foreign_ruler
from scaling.data.reference import write_references
from scaling.data.sources import locate, note, verify_changed
from scaling.plan.costs import seconds_estimate
from scaling.run.clock import Clock
from scaling.run.devices import pick_device
from scaling.run.home import RunHome, StudyFolder, write_model
from scaling.run.locks import locked
from scaling.run.schemas import Environment, StudyRuns
from scaling.run.spec import PlannedRun
from scaling.study.checks import check_fit, check_launch, check_runnable, check_samples
from scaling.study.expand import expand
from scaling.study.launch import worker_environment, workers, write_homes
from scaling.study.machine import describe_launch
from scaling.study.open import Study
from scaling.training.checkpoints.files import steps_in
from scaling.weights.teacher import verify_weights
from scaling.work.stopping import EXIT_AGAIN
from scaling.work.worker import COMMAND, EXIT_USAGE
from slurm.graph import Job, JobGraph
from slurm.interrupts import Stopped
from slurm.local import JobEvent, JobState, run_local

MARGIN_SECONDS = 5.0  # of a run that ends itself after launch.stop_seconds

log = logging.getLogger(__name__)


def run_study(study: Study, command: str) -> int:
    """Run all that is unfinished and write the report. Returns the exit code: 0, 1 (a run failed), 2 (bad input).

    Raises ConfigError, ModelError, DataError, LockError before anything is written, Stopped once all is stopped and
    what had been reached is saved.
    """
    from scaling.report.build import build_report
    from scaling.study.display import open_display

    check_runnable(study.config)
    verify_weights(study.config, study.family)
    device = pick_device(study.config.launch)
    check_launch(study.config, study.family, device)
    for metric in study.config.evaluation.metrics[:1]:
        if said := foreign_ruler(study.config.data.source, metric.name):
            log.warning("%s", said)
    start = time.monotonic()
    prepared = locate(study.config.data, study.config.launch.folder)
    check_fit(study, prepared)
    notes = verify_changed(prepared, study.config.launch.folder)
    check_samples(study, prepared)
    runs = expand(study.config, study.family, prepared.data)
    seconds = time.monotonic() - start
    folder = StudyFolder(study.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.lock):
        clear_partials(folder.path)
        clock = Clock(folder.environment, Environment)
        clock.add("data", seconds)
        note(notes)
        with clock.stage("data"):
            references = write_references(prepared, study.config.evaluation, folder, device)
        clock.start(describe_launch(clock.content, study.config, prepared, device, command))
        write_homes(study, runs, prepared, references)
        write_model(folder.runs, StudyRuns(runs=tuple(run.name for run in runs)))
        with clock.stage("runs"), open_display(study, runs) as display:
            results = launch(study, runs, device.type, display)
        with clock.stage("report"):
            report = build_report(folder.path)
        log.info("report: %s", report)
        return exit_code(results)


def launch(study: Study, runs: Sequence[PlannedRun], device: str, display: Any) -> dict[str, int]:
    """Run what has no scores yet, longest chain first; the exit code of each run that failed.

    Stopped by a signal it says what is saved before it raises Stopped.
    """
    homes = {run.name: StudyFolder(study.folder).home(run.name) for run in runs}
    pending = [run for run in runs if not homes[run.name].is_done()]
    names = {run.name for run in pending}
    jobs = [
        Job(
            name=run.name,
            command=(*COMMAND, str(homes[run.name].path)),
            log=homes[run.name].log,
            parents=(run.parent.name(),) if run.parent and run.parent.name() in names else (),
            cost=seconds_estimate(run.spec),
        )
        for run in pending
    ]
    codes: dict[str, int] = {}

    def on_event(event: JobEvent) -> None:
        if event.kind == "finished" and event.job is not None and event.state is JobState.FAILED:
            codes[event.job] = event.returncode if event.returncode is not None else 1
        display.on_event(event)

    try:
        run_local(
            JobGraph(jobs),
            workers=workers(study.config, device),
            environment=worker_environment(study.config.launch.threads),
            on_event=on_event,
            grace_seconds=study.config.launch.stop_seconds + MARGIN_SECONDS,
        )
    except Stopped:
        log.info("%s", saved_so_far(study.folder, runs))
        raise
    return codes


def saved_so_far(folder: Path, runs: Sequence[PlannedRun]) -> str:
    """A sentence: how many runs are done, and which step of each other one is on the disk."""
    homes = {run.name: RunHome(folder / run.name) for run in runs}
    left = [run for run in runs if not homes[run.name].scores.exists()]
    steps = [(run, steps_in(homes[run.name].checkpoints)) for run in left]
    begun = [f"{run.name} up to step {found[-1]} of {run.spec.recipe.steps}" for run, found in steps if found]
    saved = f"; saved: {', '.join(begun)}" if begun else ""
    others = "; of the others nothing yet" if len(begun) < len(left) else ""
    return f"{len(runs) - len(left)} of {len(runs)} runs are done{saved}{others}"


def exit_code(failed: dict[str, int]) -> int:
    """0 if nothing failed, 2 if only bad input did, else 1."""
    codes = {code for code in failed.values() if code != EXIT_AGAIN}
    if not failed:
        return 0
    return EXIT_USAGE if codes == {EXIT_USAGE} else 1
