"""Predicted bytes against the storages that two processes really hold after a training step."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks.memory import NANO_L, compare_held
from benchmarks.memory_held import held
from scaling.config.sections import Precision, Strategy
from tests.ranks import run_ranks


def check(strategy: Strategy, precision: Precision, student: bool) -> None:
    records = compare_held(strategy, precision, student, run_ranks(2, held, strategy, NANO_L, student, precision))
    assert len(records) == 4
    for record in records:
        assert record["measured"] > 0, record
        assert abs(record["deviation"]) < 0.02, record


@pytest.mark.parametrize(("strategy", "student"), [("ddp", True), ("fsdp2", True)])
def test_torch(strategy: Strategy, student: bool) -> None:
    """Weights, gradients, moments and averages, under DDP and FSDP2."""
    check(strategy, "fp32", student)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra deepspeed")
@pytest.mark.parametrize(("strategy", "precision"), [("zero1", "fp32"), ("zero2", "bf16"), ("zero3", "bf16")])
def test_deepspeed(strategy: Strategy, precision: Precision) -> None:
    """The same under the stages of ZeRO, with their buckets; all float32 in half precision too."""
    check(strategy, precision, student=strategy == "zero3")
