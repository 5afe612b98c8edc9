"""The memory of a device, in parts and under each sharding, for a terminal. Seeds cost the same and share a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.markup import escape
from rich.table import Table

from scaling.plan import units
from scaling.plan.build import Plan, RunPlan
from scaling.plan.memory.placements import Placement
from scaling.tables import right, table

BOTH = "without / with activation checkpointing"


def memory_tables(plan: Plan) -> Iterator[Table]:
    """Parts under the chosen sharding; totals and smallest numbers of devices where the device's memory is known."""
    runs = list({(run.spec.size, run.spec.label): run for run in reversed(plan.runs)}.values())[::-1]
    largest = max(place.memory.total for run in runs for place in run.placements)
    unit = units.GIB if largest >= units.GIB else units.MIB
    yield _parts(plan, runs, unit)
    if plan.accelerator.usable_bytes is None:
        return
    yield _totals(plan, runs, unit, plan.accelerator.usable_bytes)
    title = f"smallest number of {plan.accelerator.name} that a run fits on"
    caption = f"{BOTH}; powers of two that divide the batch, -: none"
    yield _by_strategy(runs, title, caption, lambda place: str(place.smallest_devices or "-"))


def _parts(plan: Plan, runs: list[RunPlan], unit: int) -> Table:
    per_pass = "/".join(str(n) for n in sorted({run.placements[0].microbatch for run in runs}))
    strategies = "/".join(dict.fromkeys(run.strategy for run in runs))
    title = f"{_name(unit)} a device: {strategies}, devices: {plan.devices}, images a pass: {per_pass}"
    static = ("parameters", "gradients", "optimizer", "ema", "gathered", "frozen")
    made = table(title, ("run of", *right(*static, "activations", "total")), f"activations, total: {BOTH}")
    for run in runs:
        plain, recomputed = (place.memory for place in run.placements if place.strategy == run.strategy)
        made.add_row(
            _row(run),
            *(units.in_unit(getattr(plain, part), unit) for part in static),
            f"{units.in_unit(plain.activations, unit)} / {units.in_unit(recomputed.activations, unit)}",
            f"{units.in_unit(plain.total, unit)} / {units.in_unit(recomputed.total, unit)}",
        )
    return made


def _totals(plan: Plan, runs: list[RunPlan], unit: int, usable: float) -> Table:
    title = f"{_name(unit)} a device by sharding, devices: {plan.devices}"
    caption = f"{BOTH}; !: above the {units.in_unit(usable, unit)} that a plan counts on"

    def cell(place: Placement) -> str:
        total = units.in_unit(place.memory.total, unit)
        return total if place.fits else f"[red]!{total}[/]"

    return _by_strategy(runs, title, caption, cell)


def _by_strategy(runs: list[RunPlan], title: str, caption: str, cell: Callable[[Placement], str]) -> Table:
    strategies = dict.fromkeys(place.strategy for place in runs[0].placements)
    made = table(title, ("run of", *right(*strategies)), caption)
    for run in runs:
        pairs = zip(run.placements[::2], run.placements[1::2], strict=True)
        made.add_row(_row(run), *(f"{cell(plain)} / {cell(recomputed)}" for plain, recomputed in pairs))
    return made


def _row(run: RunPlan) -> str:
    return escape(f"{run.spec.size} {run.spec.title}")


def _name(unit: int) -> str:
    return "GiB" if unit == units.GIB else "MiB"
