"""Every strategy trains the same network to the same numbers, and to those that it gave before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.training.agreement import (
    BATCH,
    HALVES,
    OBJECTIVES,
    STEPS,
    STRATEGIES,
    Case,
    curves,
    difference,
    golden,
    golden_cases,
    rounding,
)

EXACT = 1e-6  # relative, in float32


def spread(case: Case, strategy: str) -> Case:
    """The same run by the ranks of a strategy."""
    return replace(case, strategy=strategy, ranks=STRATEGIES[strategy])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_train_as_one_process_does(strategy: str, objective: str) -> None:
    one = Case(objective)
    ours, wanted = curves(spread(one, strategy)), curves(one)
    assert difference(ours.loss, wanted.loss) < EXACT
    assert difference(ours.grad_norm, wanted.grad_norm) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_half_precision_they_agree_to_rounding(strategy: str, precision: str) -> None:
    """Of the objective that needs most (all are in benchmarks/agreement.py): each is off from
    float32 by what half precision does, so that they differ by no more than twice that.
    """
    one = Case("scd", precision)
    ours = difference(curves(spread(one, strategy)).loss, curves(one).loss)
    assert 0 < ours < 2 * rounding("scd", precision)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_that_changes_only_how_changes_nothing(strategy: str) -> None:
    """Microbatches, activation checkpointing, and a checkpoint half-way, with all that is random in training."""
    one = Case("scd", guided=True)
    passes = BATCH // STRATEGIES[strategy] // 2
    how = replace(spread(one, strategy), passes=passes, checkpointing=True, cut=STEPS // 2)
    assert difference(curves(how).loss, curves(one).loss) < EXACT


@pytest.mark.parametrize("name", golden_cases())
def test_losses_are_those_that_were_kept(name: str) -> None:
    """To what another processor's order of summation may change: in half precision, both may be off from float32."""
    case = golden_cases()[name]
    tolerance = EXACT if case.precision == "fp32" else 2 * rounding(case.objective, case.precision)
    assert difference(curves(case).loss, golden()[name]) < tolerance


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_wrong_weight_would_be_seen(objective: str) -> None:
    """Weights off by a hundred-thousandth part change the losses by more than is allowed."""
    one = Case(objective)
    assert difference(curves(replace(one, nudge=1e-5)).loss, curves(one).loss) > EXACT
