"""A run that is stopped or killed, with all that watches it on: what its second life leaves is whole."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.ranks import context
from tests.study.conftest import Homes
from tests.training.kills import configure, finish, lines, reset, run_rank, small_study
from tests.training.test_trackers import rows

GRIDS = [4, 8, 12, 16]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return small_study(tmp_path_factory.mktemp("watched"))


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_two_lives_leave_what_one_leaves(homes: Homes, how: signal.Signals) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("wandb")
    home = homes.of("sct")
    reset(home)
    configure(home, tensorboard=False, wandb=None, grid_steps=0, profile=None)
    finish(home, 1)
    plain = lines(home)
    reset(home)
    configure(home, tensorboard=True, wandb="project", grid_steps=4, profile=[4, 4])
    two_lives(home, how)
    assert lines(home) == plain
    steps = [line["step"] for line in plain]
    shown = accumulator.EventAccumulator(str(home / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("loss")] == steps
    assert [event.step for event in shown.Images("samples/2")] == GRIDS
    first, second = rows(home)
    assert [step for step, _ in second] == (steps[len(first) :] if how == signal.SIGTERM else steps)
    assert json.loads((home / "wandb.json").read_text())["step"] == steps[-1]
    wanted = [f"step-{step:08d}-{n}.png" for step in GRIDS for n in (1, 2)]
    assert sorted(path.name for path in (home / "grids").iterdir()) == wanted
    assert {path.name for path in (home / "profile").iterdir()} >= {"rank-0-steps-4-4.txt", "rank-0-steps-4-4.json.gz"}


def two_lives(home: Path, how: signal.Signals) -> None:
    """End the run by a signal in its second half, and launch it again; W&B tells lives apart by the second."""
    first = life(home)
    while first.is_alive() and len(lines(home)) < 9:
        time.sleep(0.001)
    assert first.pid is not None
    os.kill(first.pid, how)
    first.join()
    assert first.exitcode == (75 if how == signal.SIGTERM else -how), (home / "log.txt").read_text()[-3000:]
    time.sleep(1.1)
    second = life(home)
    second.join()
    assert second.exitcode == 0, (home / "log.txt").read_text()[-3000:]


def life(home: Path) -> ForkServerProcess:
    process = context().Process(target=_live, args=(str(home),))
    process.start()
    return process


def _live(home: str) -> None:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    run_rank({}, home)
