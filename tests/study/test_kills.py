"""Kills of a whole study in each of its phases: what the same command then makes of it is bit for bit the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.study.conftest import Homes
from tests.study.kills import PHASES, Trials

KILLS = 3  # in each phase; benchmarks/kills_study.py does more
CHAIN = (
    ("training", "launcher"),  # the teacher's
    ("sampling", "all"),
    ("scoring", "all"),
    ("training", "launcher"),  # a student's
    ("training", "a process"),  # which its launcher starts again
)


def test_a_study_that_is_killed_in_stage_after_stage_loses_nothing(tmp_path: Path) -> None:
    """Scores, samples, metrics, weights are those of the undisturbed one; no process and nothing half-written stay."""
    trials, rng = Trials(tmp_path, {}), random.Random(0)
    path = trials.write(tmp_path / "killed")
    homes = Homes(tmp_path / "killed" / "runs" / "tiny", trials.finished.runs)
    struck = [trials.kill(path, None, homes, stage, victim, rng) for stage, victim in CHAIN]
    assert None not in struck[:3]
    trials.finish(path, homes)


@pytest.mark.nightly
@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (2, "ddp"), (2, "fsdp2"), (2, "zero2")])
def test_a_study_that_is_killed_in_every_phase_loses_nothing(tmp_path: Path, devices: int, strategy: str) -> None:
    trials, rng = Trials(tmp_path, {"devices": devices, "strategy": strategy}), random.Random(strategy)
    for phase in PHASES:
        struck = [kill.stage for kill in trials.kills(phase, KILLS, rng, tmp_path / phase)]
        assert struck == [PHASES[phase][0]] * KILLS
