"""Every strategy trains the same network to the same numbers, and to those that it gave before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pytest
from _pytest.mark import ParameterSet

from tests.training.agreement import (
    BATCH,
    HALVES,
    OBJECTIVES,
    PAIRS,
    STRATEGIES,
    Case,
    curves,
    difference,
    golden,
    golden_cases,
    rounding,
)

EXACT = 1e-6  # relative, in float32
CANCELLED = 5e-6  # of what is a difference between two networks that are much alike


def spread(case: Case, strategy: str) -> Case:
    """The same run by the ranks of a strategy."""
    return replace(case, strategy=strategy, ranks=STRATEGIES[strategy])


# By day every strategy trains once in the way that asks for most (`test_all_that_changes_only_how`, ZeRO-2 two networks
# beside each other), and what reaches into the network trains plainly; at night all of the table.
def by_day(rows: Iterable[tuple[str, str]], *day: tuple[str, str]) -> list[ParameterSet]:
    """The rows, those that are not of the day marked."""
    return [pytest.param(*row, marks=() if row in day else pytest.mark.nightly) for row in rows]


@pytest.mark.parametrize(
    ("strategy", "objective"),
    by_day(product(STRATEGIES, OBJECTIVES), ("ddp", "teacher"), ("fsdp2", "sct"), ("zero3", "sct")),
)
def test_ranks_train_as_one_process_does(strategy: str, objective: str) -> None:
    one = Case(objective)
    ours, wanted = curves(spread(one, strategy)), curves(one)
    assert difference(ours.loss, wanted.loss) < EXACT
    assert difference(ours.grad_norm, wanted.grad_norm) < EXACT


@pytest.mark.parametrize(
    ("strategy", "objective"), by_day(product(STRATEGIES, PAIRS), ("ddp", "scd_vsd"), ("zero2", "scd_vsd"))
)
def test_so_do_two_networks_beside_each_other(strategy: str, objective: str) -> None:
    """With all that changes only how; with guidance, for without it the loss of VSD begins at zero."""
    one, exact = Case(objective, guided=True), CANCELLED if objective == "vsd" else EXACT
    passes = BATCH // STRATEGIES[strategy] // 2
    how = replace(spread(one, strategy), passes=passes, checkpointing=True, cut=one.steps // 2)
    ours, wanted = curves(how), curves(one)
    assert len(ours.loss) == 2 * one.steps
    assert difference(ours.loss, wanted.loss) < exact
    assert difference(ours.grad_norm, wanted.grad_norm) < exact


@pytest.mark.parametrize(
    ("strategy", "precision"), by_day(product(STRATEGIES, HALVES), ("fsdp2", "bf16"), ("zero2", "fp16"))
)
def test_in_half_precision_they_agree_to_rounding(strategy: str, precision: str) -> None:
    """Of the objective that needs most (all are in benchmarks/agreement.py): each is off from
    float32 by what half precision does, so that they differ by no more than twice that.
    """
    one = Case("scd", precision)
    ours = difference(curves(spread(one, strategy)).loss, curves(one).loss)
    assert 0 < ours < 2 * rounding(one)


# The loss of VSD alone is a difference of two networks that begin as one: half precision moves it by more.
OFF_BY = {("vsd", "bf16"): 0.1, ("vsd", "fp16"): 0.01, ("scd_vsd", "bf16"): 0.1, ("scd_vsd", "fp16"): 0.01}


@pytest.mark.parametrize(("objective", "precision"), OFF_BY)
def test_steps_of_two_networks_in_half_precision(objective: str, precision: str) -> None:
    """Of student and fake score: none is skipped, and each is off from float32 by what rounding does."""
    case = Case(objective, precision, guided=True, steps=4)
    ours, wanted = curves(case), curves(replace(case, precision="fp32"))
    assert len(ours.loss) == 2 * case.steps
    assert 0 < difference(ours.loss, wanted.loss) < OFF_BY[objective, precision]
    assert all(math.isfinite(value) for value in (*ours.loss, *ours.grad_norm))


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.nightly if name == "zero2" else ()) for name in STRATEGIES]
)
def test_all_that_changes_only_how_changes_nothing(strategy: str) -> None:
    """Microbatches, activation checkpointing, and a checkpoint half-way, with all that is random in training."""
    one = Case("scd", guided=True)
    passes = BATCH // STRATEGIES[strategy] // 2
    how = replace(spread(one, strategy), passes=passes, checkpointing=True, cut=one.steps // 2)
    ours, wanted = curves(how), curves(one)
    assert difference(ours.loss, wanted.loss) < EXACT
    # Adam's steps do not tell a gradient from a multiple of it, such as a sum over microbatches from their mean.
    assert difference(ours.grad_norm, wanted.grad_norm) < EXACT


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=() if name in ("fsdp2", "zero3") else pytest.mark.nightly) for name in STRATEGIES],
)
def test_radam_too_and_from_a_checkpoint_on(strategy: str) -> None:
    """Whose steps are rectified from the sixth on; the number of steps is part of what goes on."""
    one = Case("sct", optimizer="radam")
    ours, wanted = curves(replace(spread(one, strategy), cut=one.steps // 2)), curves(one)
    assert difference(ours.loss, wanted.loss) < EXACT
    assert difference(ours.grad_norm, wanted.grad_norm) < EXACT
    assert difference(curves(Case("sct")).loss, wanted.loss) > 1e-4


def test_radam_by_one_process_goes_on_to_the_bit() -> None:
    one = Case("sct", optimizer="radam")
    assert curves(replace(one, cut=3)) == curves(one)


@pytest.mark.parametrize("name", golden_cases())
def test_losses_are_those_that_were_kept(name: str) -> None:
    """To what another processor's order of summation may change: in half precision, both may be off from float32."""
    case = golden_cases()[name]
    tolerance = EXACT if case.precision == "fp32" else 2 * rounding(case)
    assert difference(curves(case).loss, golden()[name]) < tolerance


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_wrong_weight_would_be_seen(objective: str) -> None:
    """Weights off by a hundred-thousandth part change the losses by more than is allowed."""
    one = Case(objective)
    assert difference(curves(replace(one, nudge=1e-5)).loss, curves(one).loss) > EXACT
