"""Activation bytes counted without memory, against a count at true size and against the allocator of a real step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch

from benchmarks.memory import allocator_peak
from models.network import NetworkConfig
from scaling.config.sections import Precision
from scaling.plan.memory.activations import activation_bytes
from scaling.plan.memory.timeline import transient_events
from scaling.plan.meta import shapes

TINY = NetworkConfig(8, 4, 10, 16, (1, 2), 1, (4,), head_channels=8)


@pytest.mark.parametrize(
    ("width", "batch", "dual", "checkpointing", "precision"),
    [(16, 1, False, False, "fp32"), (48, 5, True, True, "bf16")],
)
def test_one_count_serves_every_width_and_batch(
    width: int, batch: int, dual: bool, checkpointing: bool, precision: Precision
) -> None:
    """The growth that prime lengths reveal gives, to the byte, what a count at the true width and batch gives."""
    network = replace(TINY, model_channels=width)
    events = transient_events(network, batch, dual, checkpointing, precision, None)
    counted = activation_bytes(
        network, batch=batch, dual=dual, checkpointing=checkpointing, precision=precision, dropout_to=None
    )
    assert counted == max(accumulate(events))


@pytest.mark.parametrize("guided", [False, True])
def test_a_generator_holds_its_graph_while_it_is_judged(guided: bool) -> None:
    """To the byte a count at another width and batch; more than the teacher's step, most beside a guided teacher."""
    network, scored = replace(TINY, model_channels=48), "guided" if guided else "plain"
    events = transient_events(network, 5, False, True, "fp32", None, scored)
    count = partial(
        activation_bytes, network, batch=5, dual=False, checkpointing=True, precision="fp32", dropout_to=None
    )
    # Inputs of guidance, some vectors, are left out of what is counted once.
    assert count(scored=scored) == pytest.approx(max(accumulate(events)), rel=1e-2 if guided else 0)
    assert count() < count(scored="plain") < count(scored="guided")


def test_remembered_layouts_change_nothing() -> None:
    """A second count, which takes all results from memory, sees the same storages come and go."""
    shapes._operations.clear()
    first, second = (transient_events(TINY, 3, True, True, "bf16", None) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dual", [False, True])
def test_the_allocator_of_a_real_step_agrees(dual: bool, checkpointing: bool, precision: Precision) -> None:
    """Within 15 % of the measured peak; the measurement knows nothing of the count."""
    torch.set_num_threads(1)
    measured = allocator_peak(TINY, 16, dual, checkpointing, precision)
    counted = activation_bytes(TINY, batch=16, dual=dual, checkpointing=checkpointing, precision=precision)
    assert counted == pytest.approx(measured, rel=0.15)


def test_what_costs_more_and_what_less() -> None:
    """Tangents and dropout cost, checkpointing and half precision save."""

    def count(
        dual: bool = False, checkpointing: bool = False, precision: Precision = "bf16", drop: int | None = 0
    ) -> int:
        return activation_bytes(
            TINY, batch=64, dual=dual, checkpointing=checkpointing, precision=precision, dropout_to=drop
        )

    assert count() < count(dual=True) < 1.2 * count()
    assert count(checkpointing=True) < 0.5 * count()
    assert 0.5 * count(precision="fp32") < count() < 0.75 * count(precision="fp32")
    assert count() < count(drop=4) < count(drop=None)


def test_samples_add_equally_once_they_are_many() -> None:
    """Beside a large batch the weights do not move the peak: each sample adds the same."""
    at = [activation_bytes(TINY, batch=n, dual=True, checkpointing=False, precision="bf16") for n in (100, 200, 300)]
    assert at[2] - at[1] == at[1] - at[0] > 0
