"""What a budget buys and what it leaves out, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from scaling.plan import units
from scaling.plan.budget import Choice, by_size
from scaling.plan.build import Plan, RunPlan
from scaling.tables import right, table

WAYS = {
    "whole_sizes": "whole sizes, the smallest first",
    "common_fraction": "all sizes at one share of their length",
}


def budget_tables(plan: Plan) -> Iterator[Table | str]:
    """A table a way, or a sentence where everything or nothing fits; nothing without a budget."""
    for way, choice in plan.choices.items():
        heading = f"{plan.budget_hours:,g} device-hours, {WAYS[way]}"
        if choice.fraction == 1:
            yield f"{heading}: everything fits, in {units.time(plan.rate.hours(choice.flops))}"
        elif not choice.steps:
            yield f"{heading}: nothing fits; {_needed(plan, way)}"
        else:
            yield _table(plan, heading, choice)


def _needed(plan: Plan, way: str) -> str:
    """What the least that could be bought would take in full."""
    groups = by_size([run.work for run in plan.runs])
    works = groups[0] if way == "whole_sizes" else [work for group in groups for work in group]
    hours = units.time(plan.rate.hours(sum(work.flops(work.steps) for work in works)))
    return f"size {works[0].size} in full takes {hours}" if way == "whole_sizes" else f"all in full take {hours}"


def _table(plan: Plan, heading: str, choice: Choice) -> Table:
    made = table(
        f"{heading}: takes {units.time(plan.rate.hours(choice.flops))}",
        ("run", *right("steps bought", "steps left out", "share")),
        "a shortened run keeps its evaluation",
    )
    for run in plan.runs:
        made.add_row(*_row(run, choice.steps.get(run.name)))
    return made


def _row(run: RunPlan, steps: int | None) -> tuple[str, ...]:
    left = run.cost.steps - (steps or 0)
    share = "[red]left out[/]" if steps is None else f"{steps / run.cost.steps:.2%}" if left else "whole"
    return escape(run.name), f"{steps or 0:,}", f"{left:,}", share
