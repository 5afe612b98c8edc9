"""`study submit` and `study cancel`: a study as a graph of jobs on a SLURM cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from scaling.config.cluster import Cluster
from scaling.run.home import StudyFolder
from scaling.run.spec import PlannedRun, run_data
from scaling.study.checks import check_runnable
from scaling.study.expand import expand
from scaling.study.jobs import report_job, run_jobs
from scaling.study.open import Study
from scaling.study.requests import device_hours, requests, settings
from scaling.study.run import finished, prepared
from scaling.study.submitted import ClusterError, cluster_errors, submissions_of
from scaling.tables import table
from slurm.client import Client, clean_environment
from slurm.graph import JobGraph
from slurm.submit import Order, Outcome, cancel, dry_run, submit


def submit_study(study: Study, cluster: Cluster, command: str, *, retry_failed: bool) -> tuple[Outcome, int]:
    """Verify the data, write what runs start from, and submit what is not done; and how many runs are done.

    Returns at once. Raises as `run_study`, and ClusterError.
    """
    client = Client(clean_environment(cluster.pass_environment))
    folder = study.folder.resolve()
    with prepared(study, torch.device("cpu"), command) as ready:
        done = finished(folder, ready.runs)
        order = _order(study, cluster, ready.runs, _graph(folder, ready.runs, done))
        with cluster_errors():
            outcome = submit(order, submissions_of(folder), client, retry_failed=retry_failed)
    return outcome, len(done)


def cancel_study(folder: Path) -> list[str]:
    """Stop all jobs of a study; results stay, and submitted again it goes on. Names of the jobs. ClusterError."""
    if not (folder / "slurm").is_dir():
        raise ClusterError(f"{folder}: nothing was submitted here: `trigscale study submit` does that")
    with cluster_errors():
        return cancel(submissions_of(folder), Client(clean_environment()))


def preview(study: Study, cluster: Cluster) -> tuple[list[Any], dict[str, Any]]:
    """What a first submission would be: the graph as a tree, each batch script, the cost. Nothing is written or asked.

    As things for a terminal and as plain values.
    """
    check_runnable(study.config)
    runs = expand(study.config, study.family, run_data(study.config.data, "", ""))
    folder = study.folder.resolve()
    order = _order(study, cluster, runs, _graph(folder, runs, set()))
    with cluster_errors():
        planned = dry_run(order, submissions_of(folder))
    hours = {run.name: device_hours(study.config, run) for run in runs}
    shown: list[Any] = [_tree(study, order, hours)]
    for array, text in planned:
        heading = f"\n--- {array.kind}: {len(array.jobs)} jobs, each {array.request.words()}"
        shown += [heading, text.rstrip()]
    total = sum(hours.values())
    shown.append(
        f"\n{len(runs)} runs in {len(planned)} arrays, {total:.4g} device-hours by the plan; nothing submitted"
    )
    arrays = [
        {"kind": array.kind, "jobs": [job.name for job in array.jobs.values()], "request": asdict(array.request),
         "script": text}
        for array, text in planned
    ]  # fmt: skip
    return shown, {"arrays": arrays, "device_hours": total, "jobs": hours}


def outcome_table(name: str, outcome: Outcome, done: int) -> list[Any]:
    """What became of each job, for a terminal."""
    made: Table = table(f"study {name}", ("job", "what", "where or why"))
    for job, id in outcome.submitted.items():
        made.add_row(escape(job), "[green]submitted[/]", id)
    for job, condition in outcome.active.items():
        made.add_row(escape(job), f"[cyan]{condition.state.value}[/] already", condition.id)
    for job, condition in outcome.failed.items():
        made.add_row(escape(job), "[red]failed[/]", escape(f"{condition.reason}; --retry-failed submits it again"))
    for job, reason in outcome.refused.items():
        made.add_row(escape(job), "[red]refused[/]", escape(reason))
    for job, condition in outcome.orphans.items():
        made.add_row(escape(job), "[yellow]changed[/]", f"the study has it no more; `scancel {condition.id}` ends it")
    said = f"{done} runs are done, {len(outcome.submitted)} jobs submitted in {outcome.arrays} arrays"
    return [made, said] if made.row_count else [said]


def outcome_json(outcome: Outcome, done: int) -> dict[str, Any]:
    """The same as plain values."""
    groups = {key: getattr(outcome, key) for key in ("active", "failed", "orphans")}
    plain = {
        key: {name: {"state": each.state.value, "id": each.id, "reason": each.reason} for name, each in group.items()}
        for key, group in groups.items()
    }
    return {
        "done": done, "submitted": outcome.submitted, "refused": outcome.refused, "arrays": outcome.arrays, **plain
    }  # fmt: skip


def _order(study: Study, cluster: Cluster, runs: Sequence[PlannedRun], graph: JobGraph) -> Order:
    wanted = requests(study.config, cluster, runs)
    return Order(study.config.name, graph, wanted, settings(cluster, study.config.launch))


def _graph(folder: Path, runs: Sequence[PlannedRun], done: set[str]) -> JobGraph:
    """The runs that are not done and the report, unless it was made after the last of them."""
    jobs = run_jobs(folder, runs, done)
    return JobGraph([] if not jobs and _reported(StudyFolder(folder), runs) else [*jobs, report_job(folder, jobs)])


def _reported(folder: StudyFolder, runs: Sequence[PlannedRun]) -> bool:
    report = folder.report / "index.html"
    newest = max(folder.home(run.name).scores.stat().st_mtime for run in runs)
    return report.exists() and report.stat().st_mtime >= newest


def _tree(study: Study, order: Order, hours: dict[str, float]) -> Tree:
    """The graph as a tree: under each run what starts after it ended well; the report after all."""
    tree = Tree(f"study {escape(study.config.name)}")
    branches: dict[str, Tree] = {}
    for name in order.graph.order:
        job = order.graph.jobs[name]
        after = " (after all have ended)" if job.after else ""
        cost = f", {hours[name]:.4g} device-hours" if name in hours else ""
        text = f"{escape(name)}{after}: {order.requests[name].words()}{cost}"
        above = branches[job.parents[0]] if job.parents else tree
        branches[name] = above.add(text)
    return tree
