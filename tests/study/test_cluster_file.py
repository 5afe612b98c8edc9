"""Cluster files: what they may say, what a job asks for by them, and what a first submission would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling.config.cluster import Cluster, load_cluster
from scaling.config.families import CONFIGS
from scaling.config.validation import ConfigError, validate
from scaling.study.open import open_study
from scaling.study.requests import layout, requests
from tests.study.conftest import Homes

Fixture = Callable[..., Any]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"partiton": "gpu"}, "partiton: unknown key (value 'gpu'); did you mean 'partition'?"),
        ({"sbatch": {"array": "0-3"}}, "sbatch.array: the graph of the study's jobs sets it: remove it here"),
        ({"sbatch": {"cpus_per_task": 3}}, "sbatch.cpus_per_task: set cpus_per_task"),
        ({"sbatch": {"x; touch hole": 1}}, "is no option of sbatch"),
        ({"minutes": 2, "signal_seconds": 120}, "signal_seconds: 120 is not before a time limit of 2 minutes"),
        ({"max_minutes": 2}, "signal_seconds: 120 is not before a time limit of 2 minutes (max_minutes)"),
        ({"report_minutes": 1}, "a time limit of 1 minutes (report_minutes): a job would be told to end as it begins"),
        ({"gpus": False, "minutes": True}, "minutes: a number belongs here"),
        ({"sbatch": {"N": 2}}, "sbatch.N: is no option of sbatch: write its long name"),
        ({"sbatch": {"MEM": 2}}, "sbatch.MEM: is no option of sbatch"),
        ({"sbatch": {"depend": "afterok:1"}}, "sbatch.depend: the graph of the study's jobs sets it"),
        ({"sbatch": {"wait": True}}, "sbatch.wait: with it sbatch does not answer with the number"),
        ({"sbatch": {"clusters": "other"}}, "sbatch.clusters: a job's number is looked up"),
        ({"sbatch": {"partition": "b"}, "partition": "a"}, "sbatch.partition: it is a key of the cluster file"),
        ({"sbatch": {"gres": "gpu:2"}}, "sbatch.gres: one GPU a task is asked for, unless gpus is false"),
        ({"environment": {"RANK": "1"}}, "environment.RANK: tells a task who it is"),
        (
            {"environment": {"PYTHONPATH": "/other"}},
            "environment.PYTHONPATH: tells a task who it is and what to import",
        ),
        ({"pass_environment": ["SLURM_JOB_ID"]}, "pass_environment.0: tells a task who it is"),
        ({"local_copy": "~/x"}, "local_copy: is no absolute path, and nothing expands ~ or $ in it"),
        ({"minutes": -1}, "minutes: must be greater than or equal to 1"),
        ({"environment": {"A B": "x"}}, "is no name of an environment variable"),
        ({"setup": ["a\nb"]}, "is empty or has line breaks"),
    ],
)
def test_a_mistake_names_its_key_and_what_to_do(content: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(Cluster, content, "cluster.yaml")
    assert told in str(error.value)


@pytest.mark.parametrize("path", sorted((CONFIGS / "cluster").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_are_sound_and_go_by_name(path: Path) -> None:
    assert load_cluster(Path(path.stem)) == load_cluster(path)


def test_a_name_that_is_none_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cpu'"):
        load_cluster(Path("cpus"))


LAYOUTS = [(1, 8, (1, 1)), (8, 8, (1, 8)), (32, 8, (4, 8)), (12, 8, (2, 6))]


@pytest.mark.parametrize(("devices", "node", "laid"), LAYOUTS)
def test_devices_are_laid_out_over_nodes_alike(devices: int, node: int, laid: tuple[int, int]) -> None:
    assert layout(devices, node) == laid


def test_devices_that_leave_a_node_with_fewer_are_refused() -> None:
    with pytest.raises(ConfigError, match="set a multiple of 8"):
        layout(17, 8)


def test_a_dry_run_shows_graph_scripts_and_cost_and_leaves_nothing(tmp_path: Path, cli: Fixture) -> None:
    """Of the paper's study, on a machine without SLURM: time from the plan, the rest from file and study."""
    where = tmp_path / "cluster.yaml"
    content = {"partition": "gpu", "devices_per_node": 8, "memory_gb": 100, "parallel": 3, "max_minutes": 600}
    content |= {
        "sbatch": {"reservation": "mine", "exclusive": False, "spread-job": True},
        "modules": ["cuda/12", "a b; c"],
        "environment": {"A": "it's"},
    }
    where.write_text(yaml.safe_dump(content))
    words = ("imagenet512", "methods=[teacher,scd]", "sizes=[s,m]", "evaluation.metric=fd-fashion")
    words += ("data.encoder=fashion-s2d-v1", "evaluation.repeats=1", "launch.devices=16", f"launch.folder={tmp_path}")
    result = cli("study", "submit", *words, "--cluster", where, "--dry-run", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [(array["kind"], len(array["jobs"])) for array in found["arrays"]] == [
        ("teacher", 2),
        ("scd", 2),
        ("report", 1),
    ]
    text = found["arrays"][0]["script"]
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-task=1", "--mem=102400M", "--array=0-1%3"):
        assert f"#SBATCH {line}\n" in text
    for line in ("--partition=gpu", "--reservation=mine", "--time=600", "--signal=USR2@120", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    assert "exclusive" not in text
    assert "#SBATCH --spread-job\n" in text
    assert "set -e\nmodule load cuda/12\nmodule load a 'b;' c\n" in text
    assert "export A='it'\"'\"'s'\n" in text
    assert "aftercorr:" in found["arrays"][1]["script"]
    assert "afterany:" in found["arrays"][2]["script"]
    assert found["device_hours"] == pytest.approx(sum(found["jobs"].values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml"]
    shown = cli("study", "submit", *words, "--cluster", where, "--dry-run").out
    assert "report (after all have ended)" in shown
    assert "nothing submitted" in shown


def test_short_runs_ask_for_half_an_hour(write_study: Fixture, tmp_path: Path, homes: Homes) -> None:
    study = open_study(write_study(tmp_path))
    asked = requests(study.config, validate(Cluster, {"gpus": False}, ""), list(homes.runs.values()))
    assert {request.minutes for request in asked.values()} == {30}
    assert {request.gpus for request in asked.values()} == {0}


def test_commands_on_a_cluster_say_what_is_missing(write_study: Fixture, tmp_path: Path, cli: Fixture) -> None:
    path = write_study(tmp_path)
    result = cli("study", "cancel", path)
    assert (result.code, "nothing was submitted here" in result.err) == (2, True)
    (tmp_path / "c.yaml").write_text("gpus: false\nbad: 1\n")
    result = cli("study", "submit", path, "--cluster", tmp_path / "c.yaml")
    assert (result.code, "bad: unknown key" in result.err) == (2, True)
    assert not (tmp_path / "runs").exists()
