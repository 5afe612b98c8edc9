"""The plan for a terminal: several tables of at most 120 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from scaling.plan import units
from scaling.plan.build import Plan, RunPlan
from scaling.plan.export import totals
from scaling.plan.tables.budget import budget_tables
from scaling.plan.tables.memory import memory_tables
from scaling.tables import right, table


def plan_tables(plan: Plan) -> Iterator[Table | str]:
    """Everything worth reading, in order."""
    yield costs_table(plan)
    yield totals_table(plan)
    yield sampling_table(plan)
    yield from memory_tables(plan)
    yield from budget_tables(plan)
    yield notes(plan)


def costs_table(plan: Plan) -> Table:
    """The work of each run."""
    numbers = right("parameters", "MACs", "images", "train FLOPs", "eval FLOPs", "checkpoint", "device time")
    title = f"study {plan.study}: {len(plan.runs)} runs"
    made = table(title, ("run", *numbers), "MACs: of one forward pass of one sample")
    for run in plan.runs:
        cost = run.cost
        made.add_row(
            escape(run.name),
            f"{cost.parameters:,}",
            units.macs(cost.forward_macs),
            f"{cost.images:,}",
            units.flops(cost.train_flops),
            units.flops(cost.evaluation_flops),
            units.size(run.checkpoint_bytes),
            units.time(plan.rate.hours(cost.flops)),
        )
    return made


def totals_table(plan: Plan) -> Table:
    """Sums by method, by size and over all."""
    numbers = right("runs", "train FLOPs", "sampling FLOPs", "decoding FLOPs", "on disk", "device time")
    made = table("totals", ("runs of", *numbers, *right(f"on {plan.devices}")))
    for name in dict.fromkeys(run.spec.title for run in plan.runs):
        _add_total(made, plan, name, [run for run in plan.runs if run.spec.title == name])
    made.add_section()
    for size in dict.fromkeys(run.spec.size for run in plan.runs):
        _add_total(made, plan, size, [run for run in plan.runs if run.spec.size == size])
    made.add_section()
    _add_total(made, plan, "total", plan.runs)
    return made


def _add_total(made: Table, plan: Plan, name: str, runs: Sequence[RunPlan]) -> None:
    sums = totals(runs, plan.rate)
    made.add_row(
        escape(name),
        str(len(runs)),
        *(units.flops(sums[key]) for key in ("train_flops", "sampling_flops", "decoding_flops")),
        units.size(sums["disk_bytes"]),
        units.time(sums["device_hours"]),
        units.time(sums["device_hours"] / plan.devices),
    )


def sampling_table(plan: Plan) -> Table:
    """What one sample costs, by sampler: students of one size have one network and the same samplers."""
    rows: dict[str, dict[str, str]] = {}
    for run in plan.runs:
        kind = "teacher" if run.spec.method == "teacher" else "student"
        for steps, nfe in run.cost.nfe.items():
            heading = f"{kind}, {steps} step{'s' if steps > 1 else ''}, NFE {nfe}"
            rows.setdefault(run.spec.size, {})[heading] = units.macs(run.cost.sample_macs[steps])
    headings = list(dict.fromkeys(heading for row in rows.values() for heading in row))
    caption = "NFE: network evaluations; guidance of a teacher counts two"
    made = table("MACs an image, decoder included", ("size", *right(*headings)), caption)
    for size, row in rows.items():
        made.add_row(escape(size), *(row.get(heading, "") for heading in headings))
    return made


def notes(plan: Plan) -> str:
    """What the figures rest on."""
    forwards = {run.spec.title: run.cost.step_forwards for run in plan.runs}
    steps = ", ".join(f"{method} {number}" for method, number in forwards.items())
    rate, accelerator = plan.rate, plan.accelerator
    recomputed = ", with activation checkpointing" if plan.activation_checkpointing else ""
    return (
        f"FLOPs = 2 MACs. A training step costs, in forward passes: {steps}{recomputed}.\n"
        f"Device time: training and evaluation in {plan.precision} on one {accelerator.name} at {rate.utilisation:.1%} "
        f"of {accelerator.peak_flops[plan.precision]:.3g} FLOP/s ({rate.source})."
    )
