"""What a budget of device-hours buys: whole sizes from the smallest up, or all sizes at a common share of their length.

A size counts with all its runs, seeds and methods alike, because a student needs its teacher. A run that is shortened
keeps its evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

PARTS = 10_000  # a shortened length is a whole number of these parts of the full one


@dataclass(frozen=True)
class Work:
    """What one run costs: training goes with its steps (none where it starts from weights that are there already)."""

    run: str
    size: str
    forward_macs: int
    steps: int
    step_flops: int
    evaluation_flops: int

    def flops(self, steps: int) -> int:
        """Of so many steps, and of the evaluation."""
        return steps * self.step_flops + self.evaluation_flops


@dataclass(frozen=True)
class Choice:
    """The runs within a budget and the steps of each; the others are left out.

    fraction: the share of its length that every run is cut to, or, where sizes are bought whole, every run of the first
    size that does not fit; 1 where nothing is left out.
    """

    steps: dict[str, int]
    fraction: float
    flops: int


Fits = Callable[[int], bool]  # whether so many FLOPs are within the budget; true below every value where it is true


def by_size(works: Sequence[Work]) -> list[list[Work]]:
    """The runs of each size, the smallest network first."""
    groups: dict[str, list[Work]] = {}
    for work in sorted(works, key=lambda work: work.forward_macs):
        groups.setdefault(work.size, []).append(work)
    return list(groups.values())


def whole_sizes(works: Sequence[Work], fits: Fits) -> Choice:
    """Sizes at full length from the smallest up; of the first that does not fit, the share that the rest buys."""
    spent, steps, share = 0, {}, PARTS
    for group in by_size(works):
        share = _share(group, lambda flops, spent=spent: fits(spent + flops))
        steps.update(_shortened(group, share))
        spent += _flops(group, share)
        if share < PARTS:
            break
    return Choice(steps, share / PARTS, spent)


def common_fraction(works: Sequence[Work], fits: Fits) -> Choice:
    """All sizes at the largest common share of their length."""
    share = _share(works, fits)
    return Choice(_shortened(works, share), share / PARTS, _flops(works, share))


def _share(group: Sequence[Work], fits: Fits) -> int:
    """The largest number of parts of their length at which the runs fit; 0 where one would be left without a step."""
    low, high = 0, PARTS  # low fits, high does not
    if fits(_flops(group, high)):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_flops(group, middle)) else (low, middle)
    steps = _shortened(group, low)
    return low if all(steps.get(work.run) or not work.steps for work in group) else 0


def _shortened(group: Sequence[Work], share: int) -> dict[str, int]:
    """Steps of each run at so many parts of its length; no run at none."""
    return {work.run: work.steps * share // PARTS for work in group} if share else {}


def _flops(group: Sequence[Work], share: int) -> int:
    steps = _shortened(group, share)
    return sum(work.flops(steps[work.run]) for work in group if work.run in steps)
