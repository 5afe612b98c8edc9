"""`study rehearse`: every stage of a study with the same code, sizes, strategies and jobs, a few steps and images each.

Each run trains STEPS steps at its true batch, is killed once its first checkpoint is there, continues, samples IMAGES
images, is judged and released, dry, and the report is made. What comes of it is a table: what works, what is missing,
and the speed and memory that were measured beside the plan's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.errors import UserError
from scaling.config.cluster import Cluster
from scaling.config.recipes import METHODS
from scaling.config.study import StudyConfig
from scaling.config.validation import validate
from scaling.data.sources import locate, verify_changed
from scaling.errors import explain
from scaling.plan import units
from scaling.plan.build import Options, Plan, build_plan
from scaling.run.devices import pick_device
from scaling.run.home import DamagedError, RunHome, StudyFolder, read_model
from scaling.run.schemas import ReleaseTrial
from scaling.run.spec import PlannedRun, run_data
from scaling.study.checks import obstacles
from scaling.study.expand import expand
from scaling.study.jobs import report_job, run_jobs
from scaling.study.open import Study
from scaling.study.rehearsed import COMMAND, KILLED, RELEASED
from scaling.study.requests import requests, settings
from scaling.study.run import launch, prepared
from scaling.study.status import log_tail, status
from scaling.study.submitted import cluster_errors, submissions_of
from slurm.client import Client, clean_environment
from slurm.graph import JobGraph
from slurm.states import Condition, conditions
from slurm.submit import Order, submit

STEPS = 5  # two before the kill and three after, of which the speed is taken
IMAGES = 100  # the fewest that can be judged
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Check:
    """One line of the table: what was tried, whether it works (None: it was not reached), and what was found."""

    what: str
    works: bool | None
    found: str


@dataclass(frozen=True)
class Rehearsal:
    """All checks, and by run what was measured beside the plan."""

    checks: tuple[Check, ...]
    measured: tuple[dict[str, Any], ...]
    planned_hours: float
    corrected_hours: float | None

    @property
    def works(self) -> bool:
        """Whether nothing is missing."""
        return all(check.works is not False for check in self.checks)


def rehearse(study: Study, cluster: Cluster | None, command: str, *, on_meta: bool = False) -> Rehearsal:
    """Rehearse a study on this machine, or on a cluster, where it waits for the jobs.

    on_meta: of each size only the memory that the plan counts is held against the device. What an earlier rehearsal
    left is removed first; the study's own folder is not touched.
    """
    checks = list(_before(study))
    plan = _plan(study)
    checks += [*_memory(plan), disk(existing(study.folder), plan)]
    if on_meta or any(check.works is False for check in checks):
        unreached = () if on_meta else (Check("runs", None, "not tried: mend what is missing first"),)
        return Rehearsal((*checks, *unreached), (), _hours(plan), None)
    small = shortened(study)
    shutil.rmtree(small.folder, ignore_errors=True)
    runs: list[PlannedRun] = []
    with _noted(checks, "runs"):
        runs += _run(small, cluster, command)
    checks += _after(small, runs)
    measured = tuple(_measured(study, plan, small, runs))
    return Rehearsal(tuple(checks), measured, _hours(plan), _corrected(plan, measured))


def shortened(study: Study) -> Study:
    """The same study with STEPS steps a run and IMAGES images, in a folder of its own beside it."""
    content = study.config.model_dump(mode="json")
    for method in METHODS:
        if content[method] is not None:
            content[method]["steps"] = min(STEPS, content[method]["steps"])
    for changes in content["variants"].values():
        changes.pop("steps", None)
    for sections in content["by_size"].values():
        for section in sections.values():
            section.pop("steps", None)
    content["evaluation"] |= {"samples": IMAGES, "resamples": 20, "repeats": 1}
    content["sampling"] |= {"batch": min(IMAGES, content["sampling"]["batch"])}
    content["launch"] |= {"checkpoint_seconds": 1e-9, "checkpoint_keep": 1, "log_every": 1, "checkpoint_keep_steps": 0}
    content["launch"] |= {"profile": None, "wandb": None, "memory_snapshot": False, "grid_steps": 0}
    content["launch"] |= {"ema_snapshot_steps": min(STEPS, content["launch"]["ema_snapshot_steps"])}
    content["name"] = f"{study.config.name[:80]}-rehearsal"
    return Study(validate(StudyConfig, content, "the rehearsal"), study.family)


def _before(study: Study) -> Iterator[Check]:
    """What can be found without a run: parts that this version or this machine lacks, data, room on the disk."""
    found = list(obstacles(study.config))
    for key, value, reason in found:
        yield Check(key, False, f"{reason} (value {value!r})")
    if not found:
        yield Check("study file", True, "everything it asks for is there")
    checks: list[Check] = []
    with _noted(checks, "data"):
        data = locate(study.config.data, study.config.launch.folder)
        verify_changed(data, study.config.launch.folder)
        checks.append(Check("data", True, f"{data.shards}, verified"))
    yield from checks


def _plan(study: Study) -> Plan:
    runs = expand(study.config, study.family, run_data(study.config.data, "", ""))
    return build_plan(study.config, study.family, runs, Options())


def _memory(plan: Plan) -> Iterator[Check]:
    """Whether each size fits the devices, and all checkpoints the disk, by the plan."""
    usable = plan.accelerator.usable_bytes
    for run in plan.runs:
        chosen = [place for place in run.placements if place.strategy == run.strategy]
        if usable is not None and chosen and not any(place.fits for place in chosen):
            need = min(place.memory.total for place in chosen)
            yield Check(
                f"memory of {run.spec.label}-{run.spec.size}",
                False,
                f"{units.size(need)} a device of {units.size(usable)}: more devices, or a smaller launch.microbatch",
            )
    if usable is not None:
        yield Check("memory a device", True, f"the plan's, of {units.size(usable)}")


def disk(folder: Path, plan: Plan) -> Check:
    """Whether the checkpoints that the plan counts fit on the disk of a folder that exists."""
    needed, free = sum(run.disk_bytes for run in plan.runs), shutil.disk_usage(folder).free
    told = f"{units.size(needed)} of checkpoints, {units.size(free)} free in {folder}"
    return Check("disk", needed < free, told if needed < free else f"{told}: make room or set launch.folder")


def existing(folder: Path) -> Path:
    """The nearest folder above that exists, or the folder itself."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


@contextmanager
def _noted(checks: list[Check], what: str) -> Iterator[None]:
    """An error that a user can mend becomes a line of the table."""
    try:
        yield
    except (UserError, OSError) as error:
        checks.append(Check(what, False, explain(error)))


def _run(small: Study, cluster: Cluster | None, command: str) -> Sequence[PlannedRun]:
    """Run all of the short study, here or on the cluster, with its report."""
    device = pick_device(small.config.launch) if cluster is None else torch.device("cpu")
    with prepared(small, device, command) as ready:
        if cluster is not None:
            _on_cluster(small, cluster, ready.runs)
            return ready.runs
        from scaling.report.build import build_report
        from scaling.study.display import open_display

        with open_display(small, ready.runs) as display:
            launch(small, ready.runs, device.type, display, COMMAND)
        build_report(small.folder)
    return ready.runs


def _on_cluster(small: Study, cluster: Cluster, runs: Sequence[PlannedRun]) -> None:
    """Submit the same jobs as the study's, and wait until all have ended. ClusterError."""
    folder = small.folder.resolve()
    jobs = run_jobs(folder, runs, (), COMMAND)
    graph = JobGraph([*jobs, report_job(folder, jobs)])
    order = Order(
        small.config.name, graph, requests(small.config, cluster, runs), settings(cluster, small.config.launch)
    )
    client, submissions = Client(clean_environment(cluster.pass_environment)), submissions_of(folder)
    with cluster_errors():
        submit(order, submissions, client, retry_failed=False)
        _wait(lambda: conditions(submissions, client, submissions.places()))


def _wait(look: Callable[[], dict[str, Condition]]) -> None:
    while any(condition.active for condition in look().values()):
        time.sleep(POLL_SECONDS)


def _after(small: Study, runs: Sequence[PlannedRun]) -> Iterator[Check]:
    """What each run left: it was killed and went on, sampled, was judged; and the report. Of one that failed, why."""
    folder = StudyFolder(small.folder)
    jobs = {entry["run"]: entry.get("job", {}) for entry in status(small.folder)} if runs else {}
    for run in runs:
        home = folder.home(run.name)
        if home.scores.exists():
            killed = "killed, continued, " if (home.path / KILLED).exists() else ""
            yield Check(f"{run.spec.label}-{run.spec.size}", True, f"trained, {killed}sampled and judged")
            yield _released(f"release of {run.spec.label}-{run.spec.size}", home)
        else:
            said = log_tail(home.log, 1)
            told = "; ".join(filter(None, [jobs[run.name].get("reason"), *said])) or "never started"
            yield Check(f"{run.spec.label}-{run.spec.size}", False, f"{told}: {home.log}")
    if runs:
        report = folder.report / "index.html"
        yield Check("report", report.exists(), str(report) if report.exists() else f"is missing: {report}")


def _released(what: str, home: RunHome) -> Check:
    """What the run's last job found when it made a release of it, dry."""
    try:
        trial = read_model(home.path / RELEASED, ReleaseTrial)
    except DamagedError as error:
        return Check(what, False, str(error))
    if trial is None:
        return Check(what, False, f"was not made to its end: {home.log}")
    return Check(what, trial.works, trial.found)


def _measured(study: Study, plan: Plan, small: Study, runs: Sequence[PlannedRun]) -> Iterator[dict[str, Any]]:
    """By run: images a second and bytes a device, as measured and as planned."""
    from scaling.plan.rate import measured_speed

    planned = {(run.spec.label, run.spec.size, run.spec.seed): run for run in plan.runs}
    for run in runs:
        home = RunHome(small.folder / run.name)
        of = planned[run.spec.label, run.spec.size, run.spec.seed]
        if not home.scores.exists() or not of.cost.images:
            continue
        speed, memory = measured_speed(home.metrics)
        flops_an_image = of.cost.train_flops / of.cost.images
        rate = speed * flops_an_image / study.config.launch.devices
        chosen = [place.memory.total for place in of.placements if place.strategy == of.strategy]
        yield {
            "run": f"{run.spec.label}-{run.spec.size}",
            "images_per_second": speed,
            "planned_images_per_second": plan.rate.flops_per_second * study.config.launch.devices / flops_an_image,
            "memory_bytes": memory,
            "planned_memory_bytes": min(chosen, default=None),
            "device_hours": of.cost.flops / rate / 3600,
        }


def _hours(plan: Plan) -> float:
    return sum(plan.rate.hours(run.cost.flops) for run in plan.runs)


def _corrected(plan: Plan, measured: Sequence[dict[str, Any]]) -> float | None:
    """Device-hours of the whole study at the speed that was measured, None unless every training run was."""
    trained = [run for run in plan.runs if run.cost.images]
    return sum(each["device_hours"] for each in measured) if len(measured) == len(trained) else None
