"""Compiled blocks compute what plain ones do, under the hooks of every strategy."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.training import compiled
from scaling.training.sharding.world import joined
from tests.ranks import run_ranks
from tests.training.agreement import CPU, STRATEGIES, Case, curves, difference, trainer_of
from tests.training.small import pack_small

STEPS = 3


def losses(case: Case, shards: Path) -> list[float]:
    """Of the first steps, by one rank; inductor would compile for minutes, its front end finds the same graphs."""
    compiled.compile_blocks.__defaults__ = ("aot_eager",)
    with joined(CPU) as world:
        trainer = trainer_of(case, shards, world)
        return [trainer.train_step().entry["loss"] for _ in range(STEPS)]


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])  # whose hooks reach into every block
def test_compiled_blocks_train_to_the_same_losses(tmp_path: Path, strategy: str) -> None:
    case = Case("sct", strategy=strategy, ranks=STRATEGIES[strategy], compile=True)
    first, *others = run_ranks(case.ranks, losses, case, pack_small(tmp_path))
    assert all(other == first for other in others)
    assert difference(first, curves(Case("sct")).loss[:STEPS]) < 1e-6
