"""`study run`: from a study file to scores and report, continuing whatever an earlier launch left unfinished."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.files import write_json_atomic, write_text_atomic
from data_pipeline.manifest import DataError, Manifest
from models.family import Family
from scaling.config.families import load_family
from scaling.config.study import StudyConfig, load_study
from scaling.config.validation import ConfigError, nearest
from scaling.datasets import Prepared, known_encoder, prepare, write_reference
from scaling.expand import expand
from scaling.launching import check_launch, launch_of, worker_environment, workers
from scaling.machine import describe_launch
from scaling.plan.costs import seconds_estimate
from scaling.runnable import check_runnable
from scaling.run.devices import pick_device
from scaling.run.locks import locked
from scaling.run.spec import PlannedRun, RunFile, dump_run
from scaling.stopping import EXIT_AGAIN
from scaling.weights import verify_weights
from scaling.worker import EXIT_USAGE
from slurm.graph import Job, JobGraph
from slurm.local import JobEvent, JobState, run_local

GRACE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """A study ready to be planned or run: its configuration and its family of sizes."""

    config: StudyConfig
    family: Family

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.config.launch.folder / self.config.name


def open_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file and its family. Raises ConfigError or FamilyError."""
    config = load_study(path, overrides)
    known_encoder(config.data.encoder, "data.encoder")
    family = load_family(config.family)
    for size in config.sizes:
        family.size(size)
    for size in config.by_size:  # of a size that is left out they wait; of one that there is not, they are a mistake
        if size not in family.sizes:
            raise ConfigError(
                f"by_size.{size}: family {family.name!r} has no such size; {nearest(size, [*family.sizes])}"
            )
    return Study(config, family)


class Stages:
    """Seconds of each stage of a study over all launches, kept in environment.json with what was run.

    Nothing is written before `describe`, so that bad data leave no trace.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "environment.json"
        self._content: dict[str, Any] = {"stages": {}, "wall_seconds": 0.0}
        if self._path.exists():
            self._content = json.loads(self._path.read_text(encoding="utf-8"))

    def describe(self, facts: dict[str, Any]) -> None:
        """Add facts about this launch; the start of the first launch is kept."""
        started = self._content.get("started", facts["started"])
        self._content.update({**facts, "started": started})
        write_json_atomic(self._path, self._content)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            stages = self._content["stages"]
            stages[name] = round(stages.get(name, 0.0) + seconds, 3)
            self._content["wall_seconds"] = round(self._content["wall_seconds"] + seconds, 3)
            if "started" in self._content:
                write_json_atomic(self._path, self._content)


def run_study(study: Study, command: str) -> int:
    """Run all that is unfinished and write the report. Returns the exit code: 0, 1 (a run failed), 2 (bad input).

    Raises ConfigError, ModelError, DataError, InUse before anything is changed, KeyboardInterrupt once all is stopped
    and saved.
    """
    from scaling.display import open_display
    from scaling.report.build import build_report

    check_runnable(study.config)
    verify_weights(study.config, study.family)
    device = pick_device(study.config.launch)
    check_launch(study.config, study.family, device)
    folder = study.folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        stages = Stages(folder)
        with stages.stage("data"):
            prepared = prepare(study.config.data, study.config.launch.folder)
            check_fit(study, prepared.shards)
            reference = write_reference(prepared, study.config.evaluation.samples, folder)
        stages.describe(describe_launch(study.config, prepared, device, command))
        runs = expand(study.config, study.family, prepared.data)
        write_homes(study, runs, prepared, reference)
        write_json_atomic(folder / "study.json", {"runs": [run.name for run in runs]})
        with stages.stage("runs"), open_display(study, runs) as display:
            results = launch(study, runs, device.type, display)
        with stages.stage("report"):
            report = build_report(folder)
        log.info("report: %s", report)
        return exit_code(results)


def check_fit(study: Study, shards: Path) -> None:
    """DataError unless every size of the study takes the latents and classes of the shards."""
    manifest = Manifest.load(shards)
    for size in study.config.sizes:
        network = study.family.size(size)
        takes = (network.latent_channels, network.resolution, network.resolution)
        if manifest.shape != takes:
            raise DataError(
                f"{shards}: holds latents {list(manifest.shape)}, but size {size!r} of family {study.config.family!r} "
                f"takes {list(takes)}: choose a family with their latent_channels and resolution"
            )
        if network.num_classes not in (0, manifest.num_classes):
            raise DataError(
                f"{shards}: holds {manifest.num_classes} classes, but num_classes of size {size!r} of family "
                f"{study.config.family!r} is {network.num_classes}: make them equal, or num_classes 0"
            )


def write_homes(study: Study, runs: Sequence[PlannedRun], prepared: Prepared, reference: Path) -> None:
    """The home folder of each run with its config.yaml."""
    for run in runs:
        home = study.folder / run.name
        home.mkdir(exist_ok=True)
        content = RunFile(
            study=study.config.name,
            identity=run.spec.identity(),
            spec=run.spec,
            shards=prepared.shards.resolve(),
            reference=reference.resolve(),
            teacher_home=(study.folder / run.parent.name()).resolve() if run.parent else None,
            weights=run.weights.resolve() if run.weights else None,
            launch=launch_of(study.config, study.family, run.spec.size),
        )
        write_text_atomic(home / "config.yaml", dump_run(content))


def launch(study: Study, runs: Sequence[PlannedRun], device: str, display: Any) -> dict[str, int]:
    """Run what has no scores yet, longest chain first; the exit code of each run that failed."""
    pending = [run for run in runs if not (study.folder / run.name / "scores.json").exists()]
    names = {run.name for run in pending}
    jobs = [
        Job(
            name=run.name,
            command=(sys.executable, "-m", "scaling.worker", str(study.folder / run.name)),
            log=study.folder / run.name / "log.txt",
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

    run_local(
        JobGraph(jobs),
        workers=workers(study.config, device),
        environment=worker_environment(study.config.launch.threads),
        on_event=on_event,
        grace_seconds=GRACE_SECONDS,
    )
    return codes


def exit_code(failed: dict[str, int]) -> int:
    """0 if nothing failed, 2 if only bad input did, else 1."""
    codes = {code for code in failed.values() if code != EXIT_AGAIN}
    if not failed:
        return 0
    return EXIT_USAGE if codes == {EXIT_USAGE} else 1
