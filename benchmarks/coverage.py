"""How often do the 95 % intervals of the analysis hold the truth? Simulated tables whose truth is known.

    PYTHONPATH=. python benchmarks/coverage.py [--sets 2000]

Sizes are those of EDM2 (S to XXL), of the embedded study (xs to l), or eight over a range of 55. Scatter is 5 % of one
run unless said; "unequal" falls from 8 to 2 % over the sizes; "misfit": the law is off by 3 % at each size, at random;
"pair": one seed a size but two of the largest. Prints a table and writes benchmarks/results/coverage.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text_atomic
from scaling.analysis.floor import fit_floor
from scaling.analysis.line import fit_line, points, powers
from scaling.analysis.ratios import fit_curve
from scaling.analysis.surface import SurfaceData, fit_surface
from scaling.analysis.uncertainty import Estimates, FloatArray, Interval

RESULT = Path(__file__).parent / "results" / "coverage.md"
SIZES = {
    4: np.array([1.248, 2.752, 7.521, 19.08]) * 1e6,
    5: np.array([102.2, 180.8, 282.2, 405.9, 552.1]) * 1e9,
    8: np.geomspace(1e10, 5.5e11, 8),
}
ALPHA, TWICE = 0.17, 2.0
FLOOR, FLOOR_ALPHA, FLOOR_NOISE = 1.3, 0.4, 0.02
SURFACE = (1.7, 400.0, 2000.0, 0.34, 0.37)
COSTLY = {"with a floor": 5, "E + A/N^alpha + B/D^beta": 40}  # of these so many times fewer tables
Held = dict[str, bool]


@dataclass(frozen=True)
class Case:
    """One kind of table, and what makes and judges one of them: names of quantities, and whether the truth was held."""

    form: str
    table: str
    judge: Callable[[np.random.Generator], Held]


def holds(interval: Interval, truth: float) -> bool:
    """Whether the truth is inside."""
    return interval.low <= truth <= interval.high


def curve(random: np.random.Generator, sizes: int, seeds: int, scatter: str, logs: FloatArray) -> Estimates:
    """A table of one curve: true logs [S] plus the scatter of runs."""
    sigma = np.geomspace(0.08, 0.02, sizes) if "unequal" in scatter else np.full(sizes, 0.05)
    centers = logs + (0.03 * random.standard_normal(sizes) if "misfit" in scatter else 0.0)
    values = centers[:, None] + sigma[:, None] * random.standard_normal((sizes, max(seeds, 2)))
    counts = np.full(sizes, seeds)
    if "pair" in scatter:
        counts[-1] = 2
    mask = np.arange(values.shape[1]) < counts[:, None]
    mean = (values * mask).sum(axis=1) / counts
    squares = (((values - mean[:, None]) ** 2) * mask).sum(axis=1)
    names = tuple(f"s{i}" for i in range(sizes))
    return Estimates(names, SIZES[sizes], mean, counts, squares, np.full(sizes, math.nan))


def power(sizes: int, seeds: int, scatter: str) -> Case:
    """Exponent, a new run at twice the largest size, and the points themselves."""
    x = np.log(SIZES[sizes] / SIZES[sizes][0])

    def judge(random: np.random.Generator) -> Held:
        truth = 1.0 - ALPHA * x
        estimates = curve(random, sizes, seeds, scatter, truth)
        fit = fit_line(estimates, powers(estimates))
        far = x[-1] + math.log(TWICE)
        sigma = 0.02 if "unequal" in scatter else 0.05
        run = 1.0 - ALPHA * far + math.hypot(sigma, 0.03 if "misfit" in scatter else 0) * random.standard_normal()
        row = np.array([1.0, far - x.mean()])
        held = {
            "exponent": holds(fit.coefficient(1), -ALPHA),
            "new run at twice the size": holds(fit.new_run(row), run),
        }
        if "misfit" not in scatter:
            each, _ = points(estimates, fit)
            chosen = int(random.integers(sizes))
            held["a size's own score"] = holds(each[chosen], truth[chosen])
        return held

    return Case("power law", _name(sizes, seeds, scatter), judge)


def ratio(sizes: int, seeds: int, scatter: str) -> Case:
    """A constant ratio: its mean, its trend, and the level of the test."""

    def judge(random: np.random.Generator) -> Held:
        found = fit_curve("scd", 1, curve(random, sizes, seeds, scatter, np.full(sizes, math.log(1.35))))
        assert found.trend is not None
        assert found.constancy is not None
        held = {"mean ratio": holds(found.mean, 1.35), "trend": holds(found.trend, 0.0)}
        return held if "misfit" in scatter else {**held, "constant kept": not found.constancy.rejected}

    return Case("ratio", _name(sizes, seeds, scatter), judge)


def floor(sizes: int, seeds: int, scatter: str = "equal") -> Case:
    """E and exponent of a law with a floor, and the law at twice the largest size."""
    x = SIZES[sizes] / SIZES[sizes][0]
    sigma = FLOOR_NOISE * (np.geomspace(1.6, 0.4, sizes) if scatter == "unequal" else np.ones(sizes))

    def judge(random: np.random.Generator) -> Held:
        missed = 0.6 * FLOOR_NOISE * random.standard_normal(sizes) if scatter == "misfit" else 0.0
        centers = np.log(FLOOR + x**-FLOOR_ALPHA) + missed
        values = centers[:, None] + sigma[:, None] * random.standard_normal((sizes, seeds))
        mean = values.mean(axis=1)
        names, none = tuple(map(str, range(sizes))), np.full(sizes, math.nan)
        squares = ((values - mean[:, None]) ** 2).sum(axis=1)
        found = fit_floor(Estimates(names, SIZES[sizes], mean, np.full(sizes, seeds), squares, none))
        far = float(TWICE * x[-1])
        return {
            "floor": holds(found.E, FLOOR),
            "exponent": holds(found.alpha, FLOOR_ALPHA),
            "the law at twice the size": holds(found.at(TWICE * float(SIZES[sizes][-1])), FLOOR + far**-FLOOR_ALPHA),
        }

    return Case("with a floor", f"{_name(sizes, seeds, scatter)} of {FLOOR_NOISE:.0%}", judge)


def surface(rows: int, noise: float) -> Case:
    """All five parameters and the split of a budget, by 400 resamples."""
    e, a, b, alpha, beta = SURFACE

    def judge(random: np.random.Generator) -> Held:
        n = np.exp(random.uniform(np.log(5e7), np.log(1e10), rows))
        d = np.exp(random.uniform(np.log(1e9), np.log(3e11), rows))
        score = (e + a * n**-alpha + b * d**-beta) * np.exp(noise * random.standard_normal(rows))
        data = SurfaceData(n, d, score, ("",) * rows)
        found = fit_surface(data, resamples=400, seed=int(random.integers(2**31)), hold_back=False)
        truths = {"E": e, "alpha": alpha, "beta": beta, "split": beta / (alpha + beta)}
        return {name: holds(getattr(found, name), truth) for name, truth in truths.items()}

    return Case("E + A/N^alpha + B/D^beta", f"{rows} rows, noise {noise:.1%}", judge)


def _name(sizes: int, seeds: int, scatter: str) -> str:
    return f"{sizes} sizes, {seeds} seed{'s' * (seeds > 1)}, {scatter}"


def cases() -> Iterator[Case]:
    """All of them."""
    for sizes in SIZES:
        for seeds in (1, 3):
            for scatter in ("equal", "misfit", "unequal", "misfit and unequal"):
                yield power(sizes, seeds, scatter)
        yield power(sizes, 1, "pair")
    for seeds in (1, 3):
        for scatter in ("equal", "misfit", "unequal"):
            yield ratio(5, seeds, scatter)
    yield ratio(5, 1, "pair")
    yield from (floor(5, 1), floor(8, 1))
    yield from (floor(sizes, 3, scatter) for sizes in (4, 5) for scatter in ("equal", "unequal", "misfit"))
    yield from (surface(30, 0.01), surface(60, 0.01), surface(240, 0.01))


def coverage(case: Case, sets: int, seed: int = 0) -> dict[str, float]:
    """The share of `sets` simulated tables in which each quantity's interval holds the truth."""
    random = np.random.default_rng([seed, *case.table.encode()])
    counts: dict[str, int] = {}
    for _ in range(sets):
        for name, held in case.judge(random).items():
            counts[name] = counts.get(name, 0) + held
    return {name: count / sets for name, count in counts.items()}


def known(sets: int) -> float:
    """Within what a share of 95 % is known from so many tables."""
    return 1.96 * math.sqrt(0.95 * 0.05 / sets)


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000)
    sets = parser.parse_args().sets
    lines = ["| law | table | holds the truth, of 95 % |", "|---|---|---|"]
    for case in cases():
        number = max(sets // COSTLY.get(case.form, 1), 1)
        found = coverage(case, number)
        cells = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
        lines.append(f"| {case.form} | {case.table} | {cells} ({number:,} tables) |")
        print(lines[-1], flush=True)
    head = (
        f"`PYTHONPATH=. python benchmarks/coverage.py --sets {sets}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"numpy {np.__version__}. A share of 95 % is known to +-{known(sets):.1%} from {sets:,} tables, to "
        f"+-{known(sets // 5):.1%} from {sets // 5:,}, to +-{known(sets // 40):.1%} from {sets // 40:,}."
    )
    write_text_atomic(RESULT, "\n".join([head, "", *lines, ""]))


if __name__ == "__main__":
    main()
