"""The embedded study, short, interrupted in every way that a cluster has: its scores are those of a calm one."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.client import SlurmError
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import until
from tests.slurm.studies import Watched, cluster_file, program
from tests.study.conftest import assert_equal_runs

# Enough steps that each run is there to be struck.
STUDY = (
    *("fashion-ci", "sizes=[xs]", "teacher.steps=500", "scd.steps=400", "sct.steps=400", "sampling.teacher_steps=3"),
    *("evaluation.samples=100", "launch.checkpoint_seconds=0.000000001", "launch.log_every=1", "launch.threads=1"),
)
STRIKES = {"teacher": 8, "scd": 6, "sct": 6}
Blow = Callable[[Cluster, Watched, str], None]


def warned(cluster: Cluster, study: Watched, method: str) -> None:
    """As before a time limit, or a preemption."""
    cluster.call("scancel", "--signal=USR2", study.id(method), check=False)


def requeued(cluster: Cluster, study: Watched, method: str) -> None:
    """As an administrator does, without a warning."""
    cluster.call("scontrol", "requeue", study.id(method), check=False)


def killed(cluster: Cluster, study: Watched, method: str) -> None:
    """A rank dies."""
    for pid in study.workers(method):
        os.kill(pid, signal.SIGKILL)


def without_its_node(cluster: Cluster, study: Watched, method: str) -> None:
    """The node goes down, and is back once the job is off it."""
    node = study.condition(method).node
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test", check=False)
    until(lambda: not study.workers(method))
    cluster.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def under_another_daemon(cluster: Cluster, study: Watched, method: str) -> None:
    """slurmd and slurmctld are restarted, which disturbs nothing, and somebody asks in between; then a requeue."""
    for node in ("n1", "n2"):
        cluster.kill(f"slurmd.{node}", signal.SIGTERM)
        cluster.start_node(node)
    cluster.kill("slurmctld", signal.SIGTERM)
    with pytest.raises(SlurmError, match="the controller is down"):
        study.client.run("squeue")
    cluster.start_controller()
    requeued(cluster, study, method)


BLOWS: tuple[Blow, ...] = (warned, requeued, killed, without_its_node, under_another_daemon)


def strike(cluster: Cluster, study: Watched, method: str, blow: Blow) -> None:
    """Deal a blow, and wait until the run was started again; what SLURM holds after it is released, as is told."""
    begun = study.starts(method)
    blow(cluster, study, method)

    def again() -> bool:
        condition = study.condition(method)
        if "`scontrol release` it" in condition.reason:
            cluster.call("scontrol", "release", condition.id, check=False)
        return study.starts(method) > begun

    until(again, lambda: f"{method} after {blow.__name__}: {study.condition(method)}")


@pytest.mark.nightly
def test_twenty_random_interruptions_change_no_score(on_cluster: Cluster, tmp_path: Path) -> None:
    """Each blow once for each run and others at random, each once the run has got further than at the one before."""
    rng = random.Random(0)
    for name in ("cluster", "local"):
        (tmp_path / name).mkdir()
    words = (*STUDY, f"launch.folder={tmp_path / 'cluster'}")
    done = program("study", "submit", *words, "--cluster", cluster_file(tmp_path), cluster=on_cluster)
    assert done.returncode == 0, done.stderr
    study = Watched(on_cluster, tmp_path / "cluster" / "fashion-ci")
    on_cluster.call("scontrol", "hold", study.id("sct"))  # beside sCD it would be over before its turn
    for method, count in STRIKES.items():
        if method == "sct":
            on_cluster.call("scontrol", "release", study.id("sct"))
        step = 0
        for blow in (*rng.sample(BLOWS, len(BLOWS)), *rng.choices(BLOWS[:3], k=count - len(BLOWS))):
            study.reaches(method, step + 1)
            strike(on_cluster, study, method, blow)
            step = study.step(method)  # of the start before: this one has yet to begin
        until(lambda method=method: not study.condition(method).active)
    assert study.states() == dict.fromkeys((*STRIKES, "report"), "done")
    assert {method: study.starts(method) for method in STRIKES} == {m: count + 1 for m, count in STRIKES.items()}
    here = program("study", "run", *STUDY, f"launch.folder={tmp_path / 'local'}", cluster=on_cluster)
    assert here.returncode == 0, here.stderr
    local = Watched(on_cluster, tmp_path / "local" / "fashion-ci")
    for method in STRIKES:
        assert_equal_runs(study.home(method), local.home(method))
