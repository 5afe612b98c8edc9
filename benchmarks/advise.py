"""Does the advice on the next runs pay? Designs at equal money, and what they do to predictions in simulated studies.

    PYTHONPATH=. python benchmarks/advise.py [--sets 100]

EDM2's sizes XS to XL may be bought, XXL is the target, a run costs as its size or as its square, and the money buys
four runs of each size. The truth is a power law or one with a floor; one run scatters by 5 %. Compared are the root
mean square error of the predicted log score at the target (a power law fitted where the truth is one, a floor where
there is one) and the width of its 95 % interval. Prints a table and writes benchmarks/results/advise.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text_atomic
from scaling.analysis.design import Candidate, Possible, Problem, choose
from scaling.analysis.floor import fit_floor
from scaling.analysis.line import fit_line, powers
from scaling.analysis.uncertainty import Estimates, FloatArray

RESULT = Path(__file__).parent / "results" / "advise.md"
MACS = np.array([45.5, 102.2, 180.8, 282.2, 405.9]) * 1e9
TARGET, SCATTER, RUNS = 552.1e9, 0.05, 4
CENTER = float(np.exp(np.log(MACS).mean()))
TRUTHS = {"power law": Possible(0.3), "with a floor": Possible(0.6, 1.0)}
BELIEFS = tuple(Possible(alpha, e) for alpha in (0.2, 0.4, 0.7) for e in (0.0, 0.0, 0.5, 1.5))


def designs(power: float) -> dict[str, tuple[int, ...]]:
    """Runs of each size at equal money: ours, and what is usually done."""
    hours = (MACS / MACS[0]) ** power
    budget = float(RUNS * hours.sum())
    candidates = tuple(Candidate(f"{m:.3g}", float(m), 1.0, float(h)) for m, h in zip(MACS, hours, strict=True))
    ours = choose(Problem(candidates, (), TARGET, BELIEFS, CENTER, SCATTER), budget).runs

    def bought(shares: Sequence[float]) -> tuple[int, ...]:
        return tuple(int(share * budget / hour) for share, hour in zip(shares, hours, strict=True))

    return {
        "advised": ours,
        "evenly spread": (RUNS,) * len(MACS),
        "money evenly spread": bought((0.2,) * 5),
        "all small": bought((0.34, 0.33, 0.33, 0, 0)),
        "all large": bought((0, 0, 0.34, 0.33, 0.33)),
    }


def simulate(runs: Sequence[int], truth: Possible, sets: int) -> tuple[float, float, float]:
    """Root mean square error, median width, and coverage of the predicted log score at the target."""
    random = np.random.default_rng(0)
    counts = np.array(runs)
    chosen = np.flatnonzero(counts)
    macs, counts = MACS[chosen], counts[chosen]
    goal = float(_score(truth, np.array([TARGET]))[0])
    errors, widths, held = [], [], 0
    for _ in range(sets):
        values = [
            mean + SCATTER * random.standard_normal(n) for mean, n in zip(_score(truth, macs), counts, strict=True)
        ]
        estimates = Estimates(
            tuple(map(str, chosen)),
            macs,
            np.array([each.mean() for each in values]),
            counts,
            np.array([float(((each - each.mean()) ** 2).sum()) for each in values]),
            np.full(len(macs), math.nan),
        )
        if truth.e and len(macs) > 3:
            found = fit_floor(estimates).at(TARGET)
            value, low, high = (math.log(end) for end in found.ends)
        else:
            fit = fit_line(estimates, powers(estimates))
            row = np.array([1.0, math.log(TARGET / estimates.center)])
            value, low, high = fit.at(row).ends
        errors.append(value - goal)
        widths.append(high - low)
        held += low <= goal <= high
    return float(np.sqrt(np.mean(np.square(errors)))), float(np.median(widths)), held / sets


def _score(truth: Possible, macs: FloatArray) -> FloatArray:
    return np.log(truth.e + (macs / CENTER) ** -truth.alpha)


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    sets = parser.parse_args().sets
    command = f"`PYTHONPATH=. python benchmarks/advise.py --sets {sets}`"
    lines = [f"{command}, {datetime.now(UTC):%Y-%m-%d}, numpy {np.__version__}.", ""]
    lines += [
        "| cost of a run | truth | runs of XS, S, M, L, XL | error | width | holds |",
        "|---|---|---|---|---|---|",
    ]
    for power, name in ((1.0, "its size"), (2.0, "its size squared")):
        for label, truth in TRUTHS.items():
            for way, runs in designs(power).items():
                error, width, held = simulate(runs, truth, sets)
                shown = ", ".join(map(str, runs))
                lines.append(f"| {name} | {label} | {way}: {shown} | {error:.2%} | {width:.2%} | {held:.0%} |")
                print(lines[-1], flush=True)
    write_text_atomic(RESULT, "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
