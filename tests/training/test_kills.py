"""Runs that are killed at random under every strategy, and continue to where an undisturbed one comes."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study.conftest import Homes
from tests.training.kills import (
    RUNS,
    World,
    configure,
    finish,
    kill_until,
    largest_difference,
    lines,
    newest_step,
    reset,
    small_study,
)

KILLS = 2  # of each run, at a random moment and in a write; benchmarks/kills.py does more
BY_DAY = ("fsdp2", 2, "scd")  # the others at night


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return small_study(tmp_path_factory.mktemp("kills"))


@pytest.fixture
def alone(study: Homes, tmp_path: Path) -> Iterator[Homes]:
    """The study to oneself: what a test leaves is taken away."""
    yield study
    for method in ("scd", "sct"):
        reset(study.of(method))


@pytest.mark.parametrize(
    ("strategy", "size", "method"),
    [pytest.param(*run, marks=() if run == BY_DAY else pytest.mark.nightly) for run in RUNS],
)
def test_a_run_killed_again_and_again_loses_nothing(
    alone: Homes, tmp_path: Path, strategy: str, size: int, method: str
) -> None:
    """At random moments and in the middle of writes, one rank or all: every step is logged once, with the same loss."""
    home, whole = alone.of(method), tmp_path / "undisturbed"
    configure(home, strategy=strategy, devices=size)
    seconds = finish(home, size)
    shutil.copytree(home, whole)
    reset(home)
    deaths = list(kill_until(home, size, KILLS, seconds, random.Random(f"{strategy} {size}")))
    finish(home, size)
    assert len(deaths) == KILLS
    assert lines(home) == lines(whole)
    assert (home / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_a_run_goes_on_under_another_strategy_and_number_of_ranks(alone: Homes, tmp_path: Path) -> None:
    """2 ranks of FSDP2, 1 alone, 4 of ZeRO-3, 2 of DDP, killed in between: the losses of one process, to rounding."""
    home, whole = alone.of("scd"), tmp_path / "undisturbed"
    configure(home, strategy="ddp", devices=1)
    finish(home, 1)
    shutil.copytree(home, whole)
    reset(home)
    for strategy, size, step in (("fsdp2", 2, 4), ("ddp", 1, 7), ("zero3", 4, 10), ("zero1", 2, 13)):
        configure(home, strategy=strategy, devices=size)
        world = World(home, size)
        _until(lambda step=step: newest_step(home) >= step, world)
        world.signal(signal.SIGKILL)
        world.codes()
    configure(home, strategy="ddp", devices=2)
    finish(home, 2)
    assert largest_difference(home, whole) < 1e-6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
def test_a_signal_to_one_rank_saves_the_state_of_all(
    alone: Homes, tmp_path: Path, number: signal.Signals, strategy: str
) -> None:
    """Exit code "again" on every rank, the step that was reached on the disk, no checkpoint in between needed."""
    home = alone.of("sct")
    configure(home, strategy=strategy, devices=2, checkpoint_seconds=3600.0)
    world = World(home, 2)
    _until(lambda: len(lines(home)) >= 3, world)
    world.signal(number, rank=1)
    assert world.codes(45) == [75, 75]
    assert newest_step(home) == lines(home)[-1]["step"] >= 3
    assert "which is saved" in (home / "log.txt").read_text()


def _until(true: object, world: World) -> None:
    deadline = time.monotonic() + 120
    while not (callable(true) and true()):
        assert world.alive(), (world.home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
