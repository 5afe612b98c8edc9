"""Which runs to buy: against Elfving's designs, and what naive choices cost."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.analysis.design import Candidate, Possible, Problem, choose, evaluate

SIZES = (1.0, 2.0, 4.0, 8.0)


def problem(power: float, *laws: Possible, hours: float = 1.0) -> Problem:
    """Sizes 1 to 8 at a price of size^power, target 16."""
    candidates = tuple(Candidate(f"s{size:g}", size, 1.0, hours * size**power) for size in SIZES)
    return Problem(candidates, (), 16.0, laws, center=float(np.prod(SIZES)) ** 0.25, scatter=0.05)


def money(power: float, *laws: Possible, budget: float = 2000.0) -> list[float]:
    found = problem(power, *laws)
    design = choose(found, budget, cap=1.0)
    return [runs * one.hours / budget for runs, one in zip(design.runs, found.candidates, strict=True)]


def test_elfvings_shares_are_found() -> None:
    """Linear cost: 92 % of the money to the largest, 8 % to the smallest. Quadratic: 89 % to size 4, 11 % to size 1."""
    assert money(1, Possible(0.2)) == pytest.approx([0.08, 0, 0, 0.92], abs=0.015)
    assert money(2, Possible(0.2)) == pytest.approx([0.11, 0, 0.89, 0], abs=0.015)


def test_a_floor_wants_three_sizes_and_an_average_of_laws_serves_both() -> None:
    floor = money(2, Possible(0.4, 1.0))
    assert sum(share > 0.02 for share in floor) >= 3
    assert 0.55 < floor[3] < 0.85
    both = problem(2, Possible(0.2), Possible(0.4, 1.0))
    design = choose(both, 2000, cap=1.0)
    even = evaluate(both, [23, 23, 23, 23])
    assert design.hours <= 2000
    assert design.power_after < even.power_after
    assert design.floor_after < even.floor_after


def test_designs_beat_naive_choices_at_equal_money() -> None:
    both = problem(1, Possible(0.17), Possible(0.5), Possible(0.17, 1.0), Possible(0.5, 0.5))
    budget = 60.0
    found = choose(both, budget)
    naive = {"small": (20, 20, 0, 0), "large": (0, 0, 5, 5), "even": (4, 4, 4, 4)}
    for runs in naive.values():
        other = evaluate(both, runs)
        assert other.hours <= budget
        assert np.log(found.power_after * found.floor_after) < np.log(other.power_after * other.floor_after)


def test_the_cap_the_budget_and_existing_runs_are_minded() -> None:
    found = problem(1, Possible(0.2))
    design = choose(found, 100, cap=0.5)
    assert max(runs * one.hours for runs, one in zip(design.runs, found.candidates, strict=True)) <= 50
    assert design.hours <= 100
    there = Problem(found.candidates, ((1.0, 1.0),) * 50, 16.0, found.laws, found.center, found.scatter)
    assert choose(there, 100, cap=1.0).runs[0] == 0  # the small end is known already
    with pytest.raises(ValueError, match=r"the cheapest run takes 1 device-hours, more than the budget of 0\.5"):
        choose(found, 0.5)
