"""A task of a step, as SLURM starts it: its rank, its exit code, and signals in the first moments of its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm.task import rank_of, tasks_on

ROOT = Path(__file__).parents[2]
# A command that takes its time until it handles signals; {} is a folder.
SLOW = """
import os, signal, sys, time
from pathlib import Path
folder, told = Path({!r}), []
(folder / "up").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda number, _: told.append(number))
while not told:
    time.sleep(0.01)
(folder / "told").write_text(str(told[0]))
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.exit(75)
"""


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "PYTHONPATH": str(ROOT)}
    task = (sys.executable, "-S", "-P", "-m", "slurm.task", str(folder), *command)
    return subprocess.Popen(task, env=environment, start_new_session=True)


def test_a_signal_before_the_command_listens_is_not_lost(tmp_path: Path) -> None:
    """It reaches every process of the step, as SLURM sends it; the command dies of it no more than the task."""
    task = start(tmp_path, sys.executable, "-S", "-c", SLOW.format(str(tmp_path)))
    while not (tmp_path / "up").exists():
        assert task.poll() is None
        time.sleep(0.01)
    os.killpg(task.pid, signal.SIGUSR2)
    (tmp_path / "go").touch()
    assert task.wait(60) == 0
    assert (tmp_path / "told").read_text() == str(int(signal.SIGUSR2))
    assert json.loads((tmp_path / "rank-0.json").read_text())["code"] == 75


@pytest.mark.parametrize(
    ("script", "task_code", "code"), [("exit 0", 0, 0), ("exit 75", 0, 75), ("exit 3", 1, 3), ("kill -9 $$", 1, -9)]
)
def test_the_true_code_is_in_a_file(tmp_path: Path, script: str, task_code: int, code: int) -> None:
    """The step is to end for a failure only, and knows no more of it than that."""
    assert start(tmp_path, "/bin/sh", "-c", script).wait(60) == task_code
    assert json.loads((tmp_path / "rank-0.json").read_text())["code"] == code


def test_a_program_that_is_not_there_has_crashed(tmp_path: Path) -> None:
    assert start(tmp_path, "no-such-program").wait(60) == 1
    assert json.loads((tmp_path / "rank-0.json").read_text())["code"] == 70


@pytest.mark.parametrize(
    ("visible", "local"), [(None, "1"), ("3", "0"), ("0,1", "1")], ids=["no GPUs", "its own", "all of the node's"]
)
def test_a_rank_knows_its_world_and_its_device(visible: str | None, local: str) -> None:
    told = {"SLURM_NTASKS": "5", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    told |= {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "TRIGSCALE_MASTER_ADDR": "n1", "TRIGSCALE_MASTER_PORT": "23000"}
    told |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert rank_of(told) == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "23000",
    }
    assert rank_of({"SLURM_NTASKS": "1"}) == {}


def test_tasks_of_a_node() -> None:
    assert [tasks_on("2(x2),1", node) for node in range(3)] == [2, 2, 1]
