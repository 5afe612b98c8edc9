"""A cluster for the session, and graphs of small jobs on it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from slurm.client import Client, clean_environment
from slurm.graph import Job, JobGraph
from slurm.resources import Request, Settings
from slurm.states import Condition, conditions
from slurm.submissions import Submissions
from slurm.submit import Order, Outcome, submit
from tests.slurm.cluster import Cluster, obstacle
from tests.study.conftest import cli, shards, write_study  # noqa: F401

ROOT = Path(__file__).parents[2]
STEPS = str(Path(__file__).with_name("steps.py"))
LIMIT_SECONDS = 900.0
REQUEST = Request(minutes=10, cpus_per_task=1, memory_mb=500)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; the tests are skipped, with what is missing, where there can be none."""
    if reason := obstacle():
        pytest.skip(reason)
    for left in Path(tempfile.gettempdir()).glob("trigscale-slurm-[0-9]*"):  # by a session that was killed
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            Cluster(left).stop()
    made = Cluster(Path(tempfile.gettempdir()) / f"trigscale-slurm-{os.getpid()}", 20000 + os.getpid() % 500 * 20)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def on_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, which this process's own environment names."""
    for name, value in cluster.environment.items():
        if name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, value)
    return cluster


@dataclass
class Bench:
    """Graphs of small jobs, submitted from a folder of their own."""

    cluster: Cluster
    folder: Path
    settings: Settings = field(default_factory=lambda: Settings(signal_seconds=30, python_path=str(ROOT)))

    @property
    def submissions(self) -> Submissions:
        return Submissions(self.folder / "slurm")

    @property
    def client(self) -> Client:
        return Client(clean_environment(self.settings.passed, {**os.environ, **self.cluster.environment}))

    def home(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def job(self, name: str, steps: int, *parents: str, seconds: float = 0.05, **keys: Any) -> Job:
        """A job that takes so many steps."""
        home = self.home(name)
        command = (sys.executable, "-S", STEPS, str(home), str(steps), str(seconds))
        defaults = {"kind": "steps", "progress": (home / "metrics.jsonl",), "restarts": 5, "parents": parents}
        return Job(name, command, home / "log.txt", **{**defaults, **keys})

    def put(self, *jobs: Job, request: Request = REQUEST, retry_failed: bool = False) -> Outcome:
        """Submit what of these jobs is not done."""
        graph = JobGraph(jobs)
        order = Order("bench", graph, dict.fromkeys(graph.jobs, request), self.settings)
        return submit(order, self.submissions, self.client, retry_failed=retry_failed)

    def conditions(self) -> dict[str, Condition]:
        return conditions(self.submissions, self.client, self.submissions.places())

    def id(self, name: str) -> str:
        return self.submissions.places()[name].id

    def step(self, name: str) -> int:
        log = self.folder / name / "metrics.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def reaches(self, name: str, step: int) -> None:
        """Wait until a job has come so far."""
        until(lambda: self.step(name) >= step, lambda: f"{self.conditions().get(name)} {self.log(name)}")

    def log(self, name: str) -> str:
        log = self.folder / name / "log.txt"
        return log.read_text() if log.exists() else ""

    def ended(self) -> dict[str, Condition]:
        """The conditions of all jobs once none is active."""
        found: dict[str, Condition] = {}

        def over() -> bool:
            found.update(self.conditions())
            return not any(each.active for each in found.values())

        until(over, lambda: f"{found}")
        return found

    def states(self) -> dict[str, str]:
        """In a word each, once all have ended."""
        return {name: condition.state.value for name, condition in self.ended().items()}

    def with_settings(self, **changes: Any) -> Bench:
        return replace(self, settings=replace(self.settings, **changes))


def until(true: Callable[[], bool], what: Callable[[], str] = str) -> None:
    """Wait for something to become true, with a generous limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what()}"
        time.sleep(0.3)


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path) -> Bench:
    """Jobs of this test alone."""
    return Bench(cluster, tmp_path)
