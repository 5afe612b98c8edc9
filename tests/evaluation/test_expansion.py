"""Bias and error of a distance, against closed forms and many simulated sets (benchmarks/frechet_coverage.py: more)."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.evaluation.expansion import NORMAL_95, Estimate, expand, simulate
from scaling.evaluation.frechet import Reference

SIZE, SAMPLES = 16, 600


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(11))


def many(generator: np.random.Generator, shift: float, sets: int) -> list[Estimate]:
    reference = Reference(np.zeros(SIZE), np.eye(SIZE))
    return [expand(generator.standard_normal((SAMPLES, SIZE)) + shift, reference) for _ in range(sets)]


def test_bias_is_the_closed_form(generator: np.random.Generator) -> None:
    """S1 = S2 = I: D / N + (D^2 + D) / (4 N), which is what N samples of the reference itself score."""
    found = many(generator, 0.0, 200)
    closed = SIZE / SAMPLES + (SIZE**2 + SIZE) / (4 * SAMPLES)
    assert np.mean([one.bias for one in found]) == pytest.approx(closed, rel=0.03)
    assert np.mean([one.value for one in found]) == pytest.approx(closed, rel=0.03)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_error_is_the_spread_over_sets(generator: np.random.Generator, shift: float) -> None:
    """At the floor, where a plug-in error is 1.4 times too large, and at 6 floors."""
    found = many(generator, shift, 300)
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.15)
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.interval[0] <= truth <= one.interval[1] for one in found])
    assert 0.91 <= covered <= 0.99
    infinite = SIZE * shift**2
    covered = np.mean([one.infinite[0] <= infinite <= one.infinite[1] for one in found])
    assert 0.91 <= covered <= 0.99


def test_features_that_never_vary_change_nothing(generator: np.random.Generator) -> None:
    """Units that are dead in both sets: the same distance, bias and error."""
    features = generator.standard_normal((SAMPLES, SIZE))
    plain = expand(features, Reference(np.zeros(SIZE), np.eye(SIZE)))
    padded = np.pad(features, ((0, 0), (0, 4)))
    covariance = np.diag([1.0] * SIZE + [0.0] * 4)
    found = expand(padded, Reference(np.zeros(SIZE + 4), covariance))
    assert (found.value, found.bias, found.error) == pytest.approx((plain.value, plain.bias, plain.error), rel=1e-6)


def test_too_few_samples_are_refused_and_simulated(generator: np.random.Generator) -> None:
    """N = D near the reference: the expansion has no say, simulated sets know bias and spread."""
    scales = np.arange(1, 33) ** -0.5
    reference = Reference(np.zeros(32), np.diag(scales**2))
    sets = generator.standard_normal((60, 32, 32)) * scales
    with pytest.raises(ValueError, match="32 samples of 32 features: the expansion needs 64"):
        expand(sets[0], reference)
    found = [simulate(one, reference, 40, seed) for seed, one in enumerate(sets[:10])]
    values = [reference.distance(one) for one in sets]
    assert np.mean([one.bias for one in found]) == pytest.approx(np.mean(values), rel=0.05)
    assert np.mean([one.error for one in found]) == pytest.approx(np.std(values, ddof=1), rel=0.25)
    assert found[3] == simulate(sets[3], reference, 40, 3)


def test_intervals_say_what_they_are_of() -> None:
    one = Estimate(2.0, 0.5, 0.1)
    assert one.interval == pytest.approx((2 - 0.1 * NORMAL_95, 2 + 0.1 * NORMAL_95))
    assert one.infinite == pytest.approx((1.5 - 0.1 * NORMAL_95, 1.5 + 0.1 * NORMAL_95))
