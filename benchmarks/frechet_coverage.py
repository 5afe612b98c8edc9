"""How often do the intervals of a Frechet distance hold the truth? Simulated sets of known distributions.

    python benchmarks/frechet_coverage.py [--sets 400] [--sizes 64,256]

Each set is N samples of D features; the reference is known exactly. `floors`: the true distance at infinite N over the
floor at this N. Two intervals of 95 %: for the expected distance at this N (whose truth is the mean over all sets) and
for infinite N (known in closed form). Beside them what is usual: the plug-in error, and a line in 1 / N through
fifteen nested subsets with the line's own error. Below N = 2 D: sets simulated from the reference's covariance.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import scipy.stats

from scaling.evaluation.expansion import LEAST_SAMPLES, Estimate, expand, simulate
from scaling.evaluation.frechet import Reference

Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
SIMULATED = 40


def exponential(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Skewed features of mean 0 and variance 1."""
    return generator.exponential(size=shape) - 1


@dataclass(frozen=True)
class Case:
    """N samples of D features with eigenvalues falling as i^-power, in `floors` floors of distance."""

    size: int
    samples: int
    floors: float
    power: float = 0.0
    noise: str = "normal"

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations [D] of the reference, and the shift [D] that makes the distance."""
        deviations = np.arange(1, self.size + 1) ** (-self.power / 2)
        s = deviations**2
        pairs = (s[:, None] * s / (s[:, None] + s)).sum() + s.sum() / 2
        floor = s.sum() / self.samples + pairs / (2 * self.samples)
        return deviations, np.full(self.size, (self.floors * floor / self.size) ** 0.5)


def line_interval(features: np.ndarray, reference: Reference, generator: np.random.Generator) -> tuple[float, float]:
    """FID at infinite N as it is published: 15 random subsets, a line in 1 / N, its own error of the intercept."""
    counts = np.linspace(max(len(features) // 10, LEAST_SAMPLES * features.shape[1]), len(features), 15).astype(int)
    order = generator.permutation(len(features))
    found: Any = scipy.stats.linregress(1 / counts, [reference.distance(features[order[:n]]) for n in counts])
    half = 1.96 * found.intercept_stderr
    return found.intercept - half, found.intercept + half


def row(case: Case, sets: int, lines: bool) -> str:
    """One line of the table."""
    generator = np.random.default_rng(case.size * 1000 + int(10 * case.floors))
    deviations, shift = case.draws()
    reference = Reference(np.zeros(case.size), np.diag(deviations**2))
    noise: Noise = exponential if case.noise == "exponential" else lambda g, shape: g.standard_normal(shape)
    found: list[Estimate] = []
    held_by_line = 0
    for number in range(sets):
        features = noise(generator, (case.samples, case.size)) * deviations + shift
        small = case.samples < LEAST_SAMPLES * case.size
        found.append(simulate(features, reference, SIMULATED, number) if small else expand(features, reference))
        if lines:
            low, high = line_interval(features, reference, generator)
            held_by_line += low <= shift @ shift <= high
    values = np.array([one.value for one in found])
    truth, infinite = values.mean(), shift @ shift
    held = np.mean([one.interval[0] <= truth <= one.interval[1] for one in found])
    held_infinite = np.mean([one.infinite[0] <= infinite <= one.infinite[1] for one in found])
    ratio = np.mean([one.error for one in found]) / values.std(ddof=1)
    bias = np.mean([one.bias for one in found]) / (truth - infinite)
    line = f"{100 * held_by_line / sets:.1f} %" if lines else "–"
    kind = f"{case.noise}, 1/i^{case.power:g}" if case.power else case.noise
    return (
        f"| {case.size} | {case.samples:,} | {kind} | {case.floors:g} | {ratio:.2f} | {bias:.3f} | {100 * held:.1f} % "
        f"| {100 * held_infinite:.1f} % | {line} |"
    )


def cases(sizes: list[int]) -> list[Case]:
    """The rows: far above N = 2 D, at it, and below it."""
    made = []
    for size in sizes:
        samples = 5000 if size <= 256 else 10 * size
        made += [Case(size, samples, floors, 1.0 if size > 64 else 0.0) for floors in (0, 1, 5, 20)]
        made.append(Case(size, samples, 1, 1.0 if size > 64 else 0.0, "exponential"))
        made += [Case(size, times * size // 4, floors, 1.0) for times in (8, 6, 4, 1) for floors in (0, 5)]
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--lines", action="store_true", help="with the line through 15 subsets")
    arguments = parser.parse_args()
    print(f"{arguments.sets} sets a row; {platform.machine()}, numpy {np.__version__}, {date.today()}\n")
    print("| D | N | features | floors | error / true | bias / true | holds at N | at infinite N | line |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases([int(size) for size in arguments.sizes.split(",")]):
        lines = arguments.lines and case.samples >= 10 * LEAST_SAMPLES * case.size
        print(row(case, arguments.sets, lines), flush=True)


if __name__ == "__main__":
    main()
