"""Advice on the next runs, for the terminal."""

from __future__ import annotations

from rich.table import Table

from scaling.plan.rate import Rate
from scaling.study.advise import Advice
from scaling.tables import add, right, table


def advice_tables(advice: Advice, rate: Rate) -> list[Table | str]:
    """What to run, what it narrows, and where the rest of the uncertainty comes from."""
    design = advice.design
    source = ", ".join(advice.curves) or "usual exponents and floors, as the study has no scores yet"
    bought = table(
        f"Next runs for {advice.target}: {design.hours:.3g} of {advice.budget:g} device-hours",
        ("size", *right("length", "runs (seeds)", "device-hours", "share")),
        f"A run is a teacher and its students. Laws from {source}. {rate.flops_per_second:.3g} FLOP/s, {rate.source}.",
    )
    for one, runs in advice.bought():
        hours = runs * one.hours
        add(bought, one.size, f"{one.length:g}", str(runs), f"{hours:.3g}", f"{hours / design.hours:.0%}")
    gains = table(f"Half width of the 95 % interval of the law at {advice.target}", ("law", *right("before", "after")))
    for name, before, after in (
        ("power law", design.power_before, design.power_after),
        ("with a floor", design.floor_before, design.floor_after),
    ):
        add(gains, name, f"{1.96 * before:.1%}", f"{1.96 * after:.1%}")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in advice.split().items())
    lines: list[Table | str] = [bought, gains, f"Variance of one run at {advice.target} after that: {shares}."]
    if advice.samples is not None and advice.sample_share is not None:
        lines.append(
            f"Samples give {advice.sample_share:.0%} of the scatter of one run; {advice.samples:,} images a run would "
            "be the best use of its money."
        )
    return lines
