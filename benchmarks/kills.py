"""What kill -9 costs: small runs under every strategy, killed at random moments and launched again until they are done.

    PYTHONPATH=. python benchmarks/kills.py [--kills 8] [--seed 0]

Half of the kills come at a random moment of the run, the others while a checkpoint is half-written; of one rank or of
all. The table says where they struck, how many steps at most had to be computed again, and whether the finished run's
metrics.jsonl equals that of a run that nobody disturbed: every step once, with the same bits of loss and gradient norm.
Writes benchmarks/results/kills.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from scaling.study.machine import machine
from tests.study.conftest import Homes
from tests.training.kills import PHASES, RUNS, Death, configure, finish, kill_until, lines, reset, small_study

KILLS = 8  # of each run
RESULT = Path(__file__).parent / "results" / "kills.md"
COLUMNS = ("strategy", "ranks", "method", "kills", *PHASES, "of one rank", "steps again, at most", "median", "metrics")


def trial(homes: Homes, strategy: str, size: int, method: str, kills: int, seed: int) -> tuple[list[Death], bool]:
    """The deaths of one run, and whether its metrics came out equal to those of the undisturbed run before."""
    home = homes.of(method)
    configure(home, strategy=strategy, devices=size)
    seconds = finish(home, size)
    undisturbed = lines(home)
    reset(home)
    deaths = list(kill_until(home, size, kills, seconds, random.Random(f"{strategy} {size} {seed}")))
    finish(home, size)
    equal = lines(home) == undisturbed
    reset(home)
    return deaths, equal


def row(strategy: str, size: int, method: str, deaths: Sequence[Death], equal: bool) -> str:
    """One line of the table."""
    phases = Counter(death.phase for death in deaths)
    again = sorted(death.logged - death.resumed for death in deaths)
    cells = [strategy, size, method, len(deaths), *(phases[phase] for phase in PHASES)]
    cells += [sum(death.rank is not None for death in deaths), again[-1], again[len(again) // 2]]
    return "| " + " | ".join(map(str, [*cells, "equal" if equal else "DIFFERENT"])) + " |"


def main() -> None:
    """Kill, print and write the table; exit code 1 where a run came out different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=KILLS, help="kills of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the victims")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    here, date = machine(torch.device("cpu")), datetime.now(UTC).date()
    head = [f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {date}; nano xs, gloo ranks", ""]
    table = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    print("\n".join(head + table))
    folder, all_equal = Path(tempfile.mkdtemp(prefix="kills-")), True
    try:
        homes = small_study(folder)
        for strategy, size, method in RUNS:
            deaths, equal = trial(homes, strategy, size, method, options.kills, options.seed)
            table.append(row(strategy, size, method, deaths, equal))
            print(table[-1], flush=True)
            all_equal &= equal
    finally:
        shutil.rmtree(folder)
    RESULT.write_text("\n".join(head + table) + "\n")
    if not all_equal:
        raise SystemExit("a killed run's metrics differ from those of the undisturbed run")


if __name__ == "__main__":
    main()
