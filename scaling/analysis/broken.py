"""A diagnostic: is the power law broken, one exponent below some size and another above it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.analysis.uncertainty import Estimates, FloatArray, stream

LEAST_SIZES, DRAWS, BREAKS = 6, 1000, 25
MOST_SIZES = 200
LEVEL = 0.05


@dataclass(frozen=True)
class Break:
    """log y = a - alpha x up to `at` and with another exponent above it (Caballero et al. 2023, one sharp break).

    `p` is the probability of a gain in fit as large where the law is one power: of the largest F over all places of the
    break, by simulation on the table's own sizes, because the place of a break that is not there has no F distribution.
    """

    at: float
    alpha_below: float
    alpha_above: float
    p: float
    found: bool


def find_break(estimates: Estimates, seed: int = 0) -> Break | None:
    """The best single break; None for fewer than six sizes, or more than 200."""
    count = len(estimates.sizes)
    if not LEAST_SIZES <= count <= MOST_SIZES:
        return None
    x = estimates.logs
    places = np.linspace(x[1], x[-2], BREAKS + 2)[1:-1]
    draws = stream(seed, "break", count).standard_normal((DRAWS, count))
    gains = _gains(x, np.vstack([estimates.value, draws]), places)
    best = int(np.argmax(gains[:, 0]))
    p = float(np.mean(gains[:, 1:].max(axis=0) >= gains[best, 0]))
    design = _design(x, float(places[best]))
    coefficients = np.linalg.lstsq(design, estimates.value)[0]
    at = float(np.exp(places[best])) * estimates.center
    return Break(at, -float(coefficients[1]), -float(coefficients[1] + coefficients[2]), p, p < LEVEL)


def _design(x: FloatArray, place: float) -> FloatArray:
    return np.column_stack([np.ones(len(x)), x, np.maximum(x - place, 0.0)])


def _gains(x: FloatArray, values: FloatArray, places: FloatArray) -> FloatArray:
    """For each place and each row of values [R, S]: the fall of the sum of squares over what is left, [B, R]."""
    line = np.linalg.qr(_design(x, 0.0)[:, :2])[0]
    left = ((values - values @ line @ line.T) ** 2).sum(axis=1)
    found = []
    for place in places:
        basis = np.linalg.qr(_design(x, float(place)))[0]
        broken = ((values - values @ basis @ basis.T) ** 2).sum(axis=1)
        found.append((left - broken) / np.maximum(broken, 1e-300))
    return np.array(found)
