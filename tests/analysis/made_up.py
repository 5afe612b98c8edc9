"""Made-up tables whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scaling.analysis.ratios import RatioCurve
from scaling.analysis.summary import Analysis, analyse
from scaling.analysis.table import Row
from scaling.analysis.uncertainty import Estimates, FloatArray

MACS = (1e6, 2.2e6, 5e6, 1.2e7)
RATIO, ALPHA = 1.35, 0.4
Measure = Callable[[float], tuple[float, "np.ndarray | None"]]


def make_rows(measure: Measure, seeds: int = 1, slope: float = 0.0) -> list[Row]:
    """A teacher 8 (MACs / first)^-ALPHA and a student at RATIO (MACs / first)^slope times it, each measured."""
    rows = []
    for seed in range(seeds):
        for i, macs in enumerate(MACS):
            relative = macs / MACS[0]
            for method, steps, factor in (("teacher", 9, 1.0), ("scd", 1, RATIO * relative**slope)):
                fd, replicates = measure(8 * relative**-ALPHA * factor)
                rows.append(Row(method, steps, steps, f"size{i}", seed, macs, fd, replicates))
    return rows


def exact(value: float) -> tuple[float, None]:
    """A score without noise."""
    return value, None


def noisy_rows(seed: int, seeds: int = 2, noise: float = 0.03) -> list[Row]:
    """Rows with noise on the log scores."""
    random = np.random.default_rng(seed)
    return make_rows(lambda value: (value * float(np.exp(noise * random.standard_normal())), None), seeds=seeds)


def curve(analysis: Analysis, method: str = "scd", steps: int = 1) -> RatioCurve:
    """The ratio curve, which must be there."""
    found = analysis.ratio_curve(method, steps)
    assert found is not None
    return found


def estimates(macs: FloatArray, logs: FloatArray, sampling: float = np.nan) -> Estimates:
    """A curve of log scores [S] or [S, seeds] at costs [S]."""
    logs = logs if logs.ndim == 2 else logs[:, None]
    mean = logs.mean(axis=1)
    squares = ((logs - mean[:, None]) ** 2).sum(axis=1)
    count = len(macs)
    names = tuple(f"s{i}" for i in range(count))
    seeds = np.full(count, logs.shape[1])
    return Estimates(names, np.asarray(macs, float), mean, seeds, squares, np.full(count, sampling))


__all__ = ["ALPHA", "MACS", "RATIO", "analyse", "curve", "estimates", "exact", "make_rows", "noisy_rows"]
