"""What a node's clock and container are found to be, without a cluster; tests/slurm/test_node.py has jobs find it."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import pytest

from slurm import supervise
from slurm.client import explained
from slurm.node import SKEW_SECONDS, clock_problem, container_problem, problem
from slurm.restarts import NO_ROOM


@pytest.mark.parametrize(("seconds", "told"), [(-SKEW_SECONDS - 5, "behind"), (SKEW_SECONDS + 5, "ahead of")])
def test_a_clock_is_held_against_the_file_systems(tmp_path: Path, seconds: float, told: str) -> None:
    fresh = tmp_path / "begun.json"
    fresh.touch()
    assert problem((), sys.executable, fresh) == ""
    os.utime(fresh, (0, time.time() - seconds))
    assert f" s {told} that of the study's file system: have it set (NTP)" in clock_problem(fresh)


def test_a_container_is_tried_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert container_problem(("env",), sys.executable) == ""
    assert "has no program apptainer-9" in container_problem(("apptainer-9", "exec"), "python3")
    assert "ended with code 1" in container_problem(("false",), "python3")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_supervisor_that_cannot_write_ends_with_a_code_of_its_own(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(supervise, "Supervisor", full)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    assert supervise.main() == NO_ROOM


def test_a_clock_that_munge_refuses_is_named() -> None:
    """In munge's own words, which sbatch passes on."""
    said = "sbatch: error: Munge decode failed: Rewound credential"
    assert explained("sbatch", said).endswith(
        "the clock of this machine is ahead of the controller's: have it set (NTP)"
    )
