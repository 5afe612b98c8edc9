"""Do all strategies train the same network to the same numbers?

    PYTHONPATH=. python benchmarks/agreement.py

The small run of tests/training/agreement.py, 20 steps: by two gloo processes (hsdp: four, two copies of two shards)
against one process. For every strategy, objective and precision the largest relative difference of a loss in any of the
20 steps. Beside it, for half precision, how far its losses in one process are from those in float32. `mixed`: float32
with dropout, guidance or lost labels, two images a pass, activation checkpointing, and a new trainer that goes on from
a checkpoint after 10 steps. Writes benchmarks/results/agreement.md. Minutes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from scaling.study.machine import machine
from tests.training.agreement import BATCH, HALVES, OBJECTIVES, STEPS, STRATEGIES, Case, curves, difference, rounding

RESULT = Path(__file__).parent / "results" / "agreement.md"
COLUMNS = ("objective", "strategy", "ranks", "fp32", "mixed", *HALVES)


def against_one(case: Case, strategy: str, **how: int) -> str:
    """The difference of a run on the ranks of a strategy to the same run by one process."""
    spread = replace(case, strategy=strategy, ranks=STRATEGIES[strategy], **how)
    return f"{difference(curves(spread).loss, curves(case).loss):.1e}"


def row(objective: str, strategy: str) -> str:
    """One line of the table."""
    mixed = {"passes": BATCH // STRATEGIES[strategy] // 2, "checkpointing": True, "cut": STEPS // 2}
    cells = [objective, strategy, str(STRATEGIES[strategy]), against_one(Case(objective, steps=STEPS), strategy)]
    cells += [against_one(Case(objective, guided=True, steps=STEPS), strategy, **mixed)]
    cells += [against_one(Case(objective, precision, steps=STEPS), strategy) for precision in HALVES]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Train, print and write the table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    here, date = machine(torch.device("cpu")), datetime.now(UTC).date()
    lines = [f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {date}; gloo processes, 20 steps", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    print("\n".join(lines))
    for objective in OBJECTIVES:
        limits = [f"{rounding(Case(objective, precision, steps=STEPS)):.1e}" for precision in HALVES]
        lines.append(f"| {objective} | one process, against its float32 | 1 | | | {' | '.join(limits)} |")
        print(lines[-1], flush=True)
        for strategy in STRATEGIES:
            lines.append(row(objective, strategy))
            print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
