"""`study run`: from a study file to scores and report, continuing whatever an earlier launch left unfinished."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.files import clear_partials
from scaling.config.sections import foreign_ruler
from scaling.data.reference import write_references
from scaling.data.sources import locate, note, verify_changed
from scaling.run.clock import Clock
from scaling.run.devices import pick_device
from scaling.run.home import RunHome, StudyFolder, write_model
from scaling.run.locks import locked
from scaling.run.schemas import Environment, StudyRuns
from scaling.run.spec import PlannedRun
from scaling.study.checks import check_embedded, check_fit, check_launch, check_runnable, check_samples
from scaling.study.expand import expand
from scaling.study.jobs import run_jobs
from scaling.study.launch import worker_environment, workers, write_homes
from scaling.study.machine import describe_launch
from scaling.study.open import Study
from scaling.training.checkpoints.files import steps_in
from scaling.weights.teacher import verify_weights
from scaling.work.stopping import EXIT_AGAIN
from scaling.work.worker import COMMAND, EXIT_USAGE
from slurm.graph import JobGraph
from slurm.interrupts import Stopped
from slurm.local import JobEvent, JobState, run_local

if TYPE_CHECKING:
    import torch

MARGIN_SECONDS = 5.0  # of a run that ends itself after launch.stop_seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A study whose data were verified and whose runs have their folders, within `prepared`."""

    runs: tuple[PlannedRun, ...]
    clock: Clock[Environment]


def run_study(study: Study, command: str) -> int:
    """Run all that is unfinished and write the report. Returns the exit code: 0, 1 (a run failed), 2 (bad input).

    Raises ConfigError, ModelError, DataError, LockError before anything is written, Stopped once all is stopped and
    what had been reached is saved.
    """
    from scaling.report.build import build_report
    from scaling.study.display import open_display

    device = pick_device(study.config.launch)
    with prepared(study, device, command) as ready:
        with ready.clock.stage("runs"), open_display(study, ready.runs) as display:
            results = launch(study, ready.runs, device.type, display)
        with ready.clock.stage("report"):
            report = build_report(study.folder)
        log.info("report: %s", report)
        return exit_code(results)


@contextmanager
def prepared(study: Study, device: torch.device, command: str) -> Iterator[Ready]:
    """Check the study, verify its data and write what its runs start from; the study's folder is locked meanwhile.

    device: what the runs will compute on, as far as this machine can tell. Raises as `run_study`.
    """
    check_runnable(study.config)
    verify_weights(study.config, study.family)
    check_launch(study.config, study.family, device)
    for metric in study.config.evaluation.metrics[:1]:
        if said := foreign_ruler(study.config.data.source, metric.name):
            log.warning("%s", said)
    start = time.monotonic()
    check_embedded(study)
    data = locate(study.config.data, study.config.launch.folder)
    check_fit(study, data)
    notes = verify_changed(data, study.config.launch.folder)
    check_samples(study, data)
    runs = expand(study.config, study.family, data.data)
    seconds = time.monotonic() - start
    folder = StudyFolder(study.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.lock):
        clear_partials(folder.path)
        clock = Clock(folder.environment, Environment)
        clock.add("data", seconds)
        note(notes)
        with clock.stage("data"):
            references = write_references(data, study.config.evaluation, folder, device)
        clock.start(describe_launch(clock.content, study.config, data, device, command))
        write_homes(study, runs, data, references)
        write_model(folder.runs, StudyRuns(runs=tuple(run.name for run in runs)))
        yield Ready(tuple(runs), clock)


def finished(folder: Path, runs: Sequence[PlannedRun]) -> set[str]:
    """Names of the runs that have their scores; damaged ones are set aside."""
    return {run.name for run in runs if StudyFolder(folder).home(run.name).is_done()}


def launch(
    study: Study, runs: Sequence[PlannedRun], device: str, display: Any, command: Sequence[str] = COMMAND
) -> dict[str, int]:
    """Run what has no scores yet, longest chain first; the exit code of each run that failed.

    Stopped by a signal it says what is saved before it raises Stopped.
    """
    jobs = run_jobs(study.folder, runs, finished(study.folder, runs), command)
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
