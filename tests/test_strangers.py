"""What a stranger left in the current folder, or another job in the environment, decides nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scaling.errors import ParallelError
from scaling.study.launch import worker_environment
from scaling.training.sharding.world import joined
from scaling.work.worker import COMMAND
from slurm.ranks import LISTENER, rank_variables

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
NAMES = ("torch", "yaml", "random", "typer", "numpy", "logging", "scaling")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that anybody writes to: each module in it says that it was imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger was imported')\n")
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_launcher_imports_nothing_from_the_current_folder(folder: Path) -> None:
    (folder / "scaling.py").unlink()  # -m finds the program there before any line of ours runs
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = run(folder, sys.executable, "-m", "scaling", "study", "keys", "--help", **environment)
    assert result.returncode == 0, result.stderr
    assert "List every key" in result.stdout


def test_workers_and_ranks_import_nothing_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty and relative entries of PYTHONPATH mean the current folder too."""
    monkeypatch.setenv("PYTHONPATH", f":.:{ROOT / 'tests'}")
    environment = worker_environment(1)
    assert environment["PYTHONPATH"] == f"{ROOT}:{ROOT / 'tests'}"
    result = run(folder, *COMMAND, "missing", **environment)
    assert result.returncode == 2
    assert "missing/config.yaml: no such file" in result.stderr
    # What a worker starts itself, without -P, such as the processes of torch.compile.
    assert run(folder, sys.executable, "-c", "import random, yaml", **environment).returncode == 0


def test_the_ranks_of_another_job_do_not_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**rank_variables(3, 4, 29500), "GROUP_RANK": "1", "ROLE_WORLD_SIZE": "4", LISTENER: "5"}
    other["TORCHELASTIC_RUN_ID"] = "none"
    for name, value in {**other, "MASTER_KEY": "kept"}.items():
        monkeypatch.setenv(name, value)
    environment = worker_environment(1)
    assert set(environment) & {*other, "MASTER_KEY"} == {"MASTER_KEY"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"LOCAL_WORLD_SIZE": ""}, "RANK=0 is set, as for one process of several, but LOCAL_WORLD_SIZE is not"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "but MASTER_PORT, MASTER_ADDR is not"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is no whole number"),
        ({"WORLD_SIZE": "0"}, "RANK=0 of WORLD_SIZE=0"),
    ],
)
def test_half_a_description_of_a_world_is_refused(changes: dict[str, str], told: str) -> None:
    with pytest.raises(ParallelError, match=told), joined(CPU, {**rank_variables(0, 1, 29500), **changes}):
        pass


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in rank_variables(0, 1, port).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ParallelError, match=f"MASTER_PORT: rank 0 of 1 .* 127.0.0.1:{port}: "), joined(CPU):
            pass


def test_a_world_meets_on_the_socket_that_its_launcher_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = rank_variables(0, 1, listener.getsockname()[1])
        with joined(CPU, {**variables, LISTENER: str(os.dup(listener.fileno()))}) as world:
            assert world.total(torch.ones(2)).tolist() == [1, 1]
            world.barrier()
