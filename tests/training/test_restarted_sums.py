"""Four ranks whose processes start anew: they sum gradients in the order in which they would have gone on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.config.families import load_family
from scaling.training.sharding.world import joined
from tests.ranks import run_ranks
from tests.training import agreement
from tests.training.agreement import Case
from tests.training.small import pack_small

BATCH, CUT, STEPS = 16, 2, 4  # of the embedded study's smallest network: one bucket of DDP, in parts of all ranks
RANKS = 4  # of two, a sum has one order
STRATEGIES = [
    "ddp",
    *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fsdp2", "hsdp", "zero1", "zero2", "zero3")),
]


def logged(strategy: str, shards: Path, folder: Path) -> list[list[dict[str, float]]]:
    """What is logged by trainers that go on and by ones that go on from a checkpoint."""
    agreement.NET, agreement.BATCH = load_family("nano").size("xs"), BATCH
    case = Case("teacher", strategy=strategy, ranks=RANKS)
    with joined(torch.device("cpu")) as world:
        trainer = agreement.trainer_of(case, shards, world)
        for _ in range(CUT):
            trainer.train_step()
        again = agreement._restored(trainer, agreement.trainer_of(case, shards, world), folder)
        return [[each.train_step().entry for _ in range(CUT, STEPS)] for each in (trainer, again)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_restart_changes_no_bit_of_four_ranks(strategy: Any, tmp_path: Path) -> None:
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs the extra deepspeed")
    for gone_on, restarted in run_ranks(RANKS, logged, strategy, pack_small(tmp_path), tmp_path / "checkpoints"):
        assert restarted == gone_on
