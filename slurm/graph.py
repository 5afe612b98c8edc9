"""Jobs and the graph they form: what runs, after what, and what should start first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


class GraphError(ValueError):
    """The jobs do not form a graph that can be run."""


@dataclass(frozen=True)
class Job:
    """One command and what must be done before it.

    name: unique in its graph; any text. command: program and arguments, passed on without a shell. log: file that
    receives stdout and stderr. parents: names of the jobs that must succeed first. cost: expected duration in any unit
    that the whole graph shares. after: names of the jobs that must have ended first, however they did. kind: jobs of
    one kind are alike, which a cluster may start as one array. progress: what shows how far the job is
    (`slurm.restarts.progress`). restarts: how often it may be started again after a crash.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    parents: tuple[str, ...] = ()
    cost: float = 1.0
    after: tuple[str, ...] = ()
    kind: str = "job"
    progress: tuple[Path, ...] = ()
    restarts: int = 0


class JobGraph:
    """Jobs without duplicates, unknown parents or cycles.

    jobs: by name, in the order given. Raises GraphError naming the jobs at fault.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.jobs: dict[str, Job] = {}
        for job in jobs:
            if job.name in self.jobs:
                raise GraphError(f"two jobs are named {job.name!r}: give each job its own name")
            self.jobs[job.name] = job
        for job in self.jobs.values():
            self._check_job(job)
        self._order = self._topological_order()
        self._children: dict[str, list[str]] = {name: [] for name in self.jobs}
        for job in self.jobs.values():
            for parent in (*job.parents, *job.after):
                self._children[parent].append(job.name)

    @property
    def order(self) -> tuple[str, ...]:
        """Names of all jobs, each behind those that it waits for."""
        return self._order

    def descendants(self, name: str) -> tuple[str, ...]:
        """Names of the jobs that need `name`, directly or not, parents before children."""
        found = {name}
        for later in self._order:
            if not found.isdisjoint(self.jobs[later].parents):
                found.add(later)
        return tuple(later for later in self._order if later in found and later != name)

    def critical_path(self) -> dict[str, float]:
        """Priority of each job: its cost plus the largest priority among its children.

        Starting the ready job of highest priority first begins the longest remaining chain early (list scheduling by
        critical path; Graham, "Bounds on multiprocessing timing anomalies", 1969).
        """
        priority: dict[str, float] = {}
        for name in reversed(self._order):
            longest_below = max((priority[child] for child in self._children[name]), default=0.0)
            priority[name] = self.jobs[name].cost + longest_below
        return priority

    def _check_job(self, job: Job) -> None:
        if not job.command:
            raise GraphError(f"job {job.name!r} has an empty command: give a program and its arguments")
        if not (math.isfinite(job.cost) and job.cost >= 0):
            raise GraphError(f"job {job.name!r} has cost {job.cost}: give a finite number, zero or more")
        for parent in (*job.parents, *job.after):
            if parent not in self.jobs:
                raise GraphError(f"job {job.name!r} has the parent {parent!r}, which is not a job of this graph")

    def _topological_order(self) -> tuple[str, ...]:
        sorter = TopologicalSorter({job.name: (*job.parents, *job.after) for job in self.jobs.values()})
        try:
            return tuple(sorter.static_order())
        except CycleError as error:
            cycle = " -> ".join(repr(name) for name in error.args[1])
            raise GraphError(f"jobs wait for each other in a circle: {cycle}") from None
