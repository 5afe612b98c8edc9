"""What a budget buys: invariants of both ways, and small cases by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.plan.budget import PARTS, Choice, Work, common_fraction, whole_sizes

Way = Callable[[list[Work], Callable[[int], bool]], Choice]
WAYS: list[Way] = [whole_sizes, common_fraction]


@st.composite
def studies(draw: st.DrawFn) -> list[Work]:
    """Runs of one to four sizes, in any order, up to three each; some of no steps, by imported weights."""
    works = []
    for n in range(draw(st.integers(1, 4))):
        for m in range(draw(st.integers(1, 3))):
            steps, step, evaluation = (draw(st.integers(low, 10**6)) for low in (0, 1, 0))
            works.append(Work(f"{n}-{m}", str(n), 100 + n, steps, step, evaluation))
    return draw(st.permutations(works))


def total(works: list[Work], steps: dict[str, int]) -> int:
    return sum(work.flops(steps[work.run]) for work in works if work.run in steps)


def full(works: list[Work]) -> dict[str, int]:
    return {work.run: work.steps for work in works}


@pytest.mark.parametrize("way", WAYS)
@given(works=studies(), share=st.floats(0, 1.2))
def test_a_budget_is_never_exceeded(way: Way, works: list[Work], share: float) -> None:
    budget = share * total(works, full(works))
    choice = way(works, lambda flops: flops <= budget)
    assert choice.flops == total(works, choice.steps) <= budget
    lengths = full(works)
    assert all(0 <= steps <= lengths[run] and (steps or not lengths[run]) for run, steps in choice.steps.items())


@pytest.mark.parametrize("way", WAYS)
@given(works=studies(), shares=st.tuples(st.floats(0, 1.2), st.floats(0, 1.2)))
def test_a_larger_budget_buys_no_less_of_any_run(way: Way, works: list[Work], shares: tuple[float, float]) -> None:
    whole = total(works, full(works))
    less, more = (way(works, lambda flops, share=share: flops <= share * whole) for share in sorted(shares))
    assert set(less.steps) <= set(more.steps)
    assert all(less.steps[run] <= more.steps[run] for run in less.steps)


@pytest.mark.parametrize("way", WAYS)
@given(works=studies())
def test_the_whole_cost_leaves_nothing_out(way: Way, works: list[Work]) -> None:
    budget = total(works, full(works))
    choice = way(works, lambda flops: flops <= budget)
    assert (choice.steps, choice.fraction, choice.flops) == (full(works), 1.0, budget)


@pytest.mark.parametrize("way", WAYS)
@given(works=studies())
def test_what_does_not_fit_at_all_is_left_out(way: Way, works: list[Work]) -> None:
    assert way(works, lambda flops: False) == Choice({}, 0.0, 0)


@given(works=studies(), share=st.floats(0, 1))
def test_sizes_are_whole_but_one_and_the_smallest_come_first(works: list[Work], share: float) -> None:
    budget = share * total(works, full(works))
    choice = whole_sizes(works, lambda flops: flops <= budget)
    kinds: dict[str, set[str]] = {}
    for work in sorted(works, key=lambda work: work.forward_macs):
        steps = choice.steps.get(work.run)
        if work.steps:  # of a run of no steps a part is the whole
            kind = "none" if steps is None else "whole" if steps == work.steps else "part"
            kinds.setdefault(work.size, set()).add(kind)
    assert all(len(kind) == 1 for kind in kinds.values())  # the runs of a size go together
    order = [kind.pop() for kind in kinds.values()]
    assert order == sorted(order, key=["whole", "part", "none"].index)
    assert order.count("part") <= 1


def test_by_hand() -> None:
    works = [
        Work("teacher-b", "b", 200, steps=10_000, step_flops=4, evaluation_flops=100),
        Work("teacher-a", "a", 100, steps=10_000, step_flops=1, evaluation_flops=10),
        Work("scd-a", "a", 101, steps=2_000, step_flops=2, evaluation_flops=10),
    ]
    # a costs 10,010 + 4,010; of b's 40,100 there are 12,100 left: 100 for its evaluation, 12,000 of 40,000 to train.
    choice = whole_sizes(works, lambda flops: flops <= 26_120)
    assert choice == Choice({"teacher-b": 3_000, "teacher-a": 10_000, "scd-a": 2_000}, 0.3, 26_120)
    # All: 120 for evaluation, half of the 54,000 of training.
    choice = common_fraction(works, lambda flops: flops <= 27_120)
    assert choice == Choice({"teacher-b": 5_000, "teacher-a": 5_000, "scd-a": 1_000}, 0.5, 27_120)
    # What is left beyond a covers the evaluation of b, but no step: nothing of b is bought.
    choice = whole_sizes(works, lambda flops: flops <= 14_020 + 100)
    assert choice == Choice({"teacher-a": 10_000, "scd-a": 2_000}, 0.0, 14_020)


def test_a_length_is_cut_to_whole_parts() -> None:
    works = [Work("teacher-a", "a", 1, steps=10 * PARTS, step_flops=1, evaluation_flops=0)]
    assert whole_sizes(works, lambda flops: flops <= 1239).steps == {"teacher-a": 1230}
