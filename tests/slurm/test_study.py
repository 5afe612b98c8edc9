"""A whole study on the cluster, from `study submit` to its report, interrupted and not: it comes to the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.studies import Watched, cluster_file, program
from tests.study.conftest import assert_equal_runs

Fixture = Callable[..., Any]
SHORT = {
    "teacher": {"steps": 14},
    "scd": {"steps": 6, "warmup_steps": 2},
    "sct": {"steps": 6, "warmup_steps": 2},
    "launch": {"checkpoint_seconds": 1e-9, "log_every": 1},
}


def test_a_study_is_submitted_interrupted_and_reported(
    on_cluster: Cluster,
    tmp_path: Path,
    write_study: Fixture,
    cli: Fixture,
) -> None:
    """The teacher is warned and goes on, one student fails; the other's scores are those of a local run to the bit."""
    path, where = write_study(tmp_path, **SHORT), cluster_file(tmp_path)
    preview = cli("study", "submit", path, "--cluster", where, "--dry-run", "--json")
    assert [len(array["jobs"]) for array in json.loads(preview.out)["arrays"]] == [1, 1, 1, 1]
    assert not (tmp_path / "runs" / "tiny").exists()
    submitted = cli("study", "submit", path, "--cluster", where, "--json")
    assert (submitted.code, len(json.loads(submitted.out)["submitted"])) == (0, 4), submitted.err
    study = Watched(on_cluster, tmp_path / "runs" / "tiny")
    (study.home("sct") / "config.yaml").write_text("spec: gone\n")
    study.reaches("teacher", 2)
    on_cluster.call("timeout", "5", "scancel", "--signal=USR2", study.id("teacher"), check=False)
    assert study.states() == {"teacher": "done", "scd": "done", "sct": "failed", "report": "done"}
    status = {entry["run"]: entry for entry in json.loads(cli("study", "status", path, "--json").out or "[]")}
    assert status == {} or status[study.home("teacher").name]["job"]["starts"] == 2
    again = json.loads(cli("study", "submit", path, "--cluster", where, "--json").out)
    assert (again["done"], again["submitted"]) == (2, {})
    assert list(again["failed"]) == [study.home("sct").name]
    assert "sct" in (study.folder.report / "index.html").read_text()
    (tmp_path / "local").mkdir()
    reference = write_study(tmp_path / "local", **{**SHORT, "methods": ["teacher", "scd"]}, name="local")
    assert program("study", "run", reference, cluster=on_cluster).returncode == 0
    local = Watched(on_cluster, tmp_path / "local" / "runs" / "local")
    for method in ("teacher", "scd"):
        assert_equal(study.home(method), local.home(method))
    retried = cli("study", "submit", path, "--cluster", where, "--retry-failed", "--json")
    assert list(json.loads(retried.out)["submitted"]) == [study.home("sct").name, "report"]
    assert set(study.states().values()) == {"done"}


def assert_equal(home: Path, reference: Path) -> None:
    """As `assert_equal_runs`, of two studies with different names."""
    scores = (home / "scores.json").read_text()
    (home / "scores.json").write_text(scores.replace('"study": "tiny"', '"study": "local"'))
    assert_equal_runs(home, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_nodes_with_two_tasks_each_come_to_the_same_under_interruptions(
    on_cluster: Cluster,
    tmp_path: Path,
    write_study: Fixture,
    strategy: str,
) -> None:
    changes = {**SHORT, "methods": ["teacher"], "launch": {**SHORT["launch"], "devices": 4, "strategy": strategy}}
    reference = write_study(tmp_path, **changes, name="local")
    assert program("study", "run", reference, cluster=on_cluster).returncode == 0
    path = write_study(tmp_path, **changes)
    done = program("study", "submit", path, "--cluster", cluster_file(tmp_path), cluster=on_cluster)
    assert done.returncode == 0, done.stderr
    study, rng = Watched(on_cluster, tmp_path / "runs" / "tiny"), random.Random(strategy)
    for step in (3, 7):
        study.reaches("teacher", step)
        if rng.random() < 0.5:
            on_cluster.call("scontrol", "requeue", study.id("teacher"), check=False)
        else:
            on_cluster.call("timeout", "5", "scancel", "--signal=USR2", study.id("teacher"), check=False)
    assert study.states() == {"teacher": "done", "report": "done"}
    assert_equal(study.home("teacher"), Watched(on_cluster, tmp_path / "runs" / "local").home("teacher"))


@pytest.mark.nightly
def test_a_study_is_rehearsed_with_the_jobs_that_it_will_have(
    on_cluster: Cluster,
    tmp_path: Path,
    write_study: Fixture,
) -> None:
    path = write_study(tmp_path)
    done = program("study", "rehearse", path, "--cluster", cluster_file(tmp_path), "--json", cluster=on_cluster)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    works = {check["what"]: check["found"] for check in found["checks"] if check["works"]}
    for method in ("teacher", "scd", "sct"):
        assert works[f"{method}-xs"] == "trained, killed, continued, sampled and judged"
        assert works[f"release of {method}-xs"] == "made, 6 files verified, its picture drawn again; discarded"
    assert len(found["measured"]) == 3
    assert found["corrected_hours"] > 0
    assert not (tmp_path / "runs" / "tiny").exists()
