"""Metrics that compare single samples: neighbours, kernel distance, inception score, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.evaluation import neighbours as module
from scaling.evaluation.inception_score import inception_score
from scaling.evaluation.kernel import kernel_distance
from scaling.evaluation.neighbours import compare, perfect_coverage


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(3))


def plain(made: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """The definitions, with whole matrices."""

    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))

    reach_real = np.sort(distances(real, real), 1)[:, k]
    reach_made = np.sort(distances(made, made), 1)[:, k]
    between = distances(real, made)
    inside = between < reach_real[:, None]
    recall = (between < reach_made).any(1).mean()
    return inside.any(0).mean(), recall, inside.sum(0).mean() / k, inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_are_their_definitions_in_any_blocks(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(module, "ROWS", 17)
    made, real = generator.standard_normal((60, 4)) + 50.3, generator.standard_normal((80, 4)) + 50
    found = compare(made.astype(np.float32), real.astype(np.float32), k)
    expected = plain(made.astype(np.float32).astype(float), real.astype(np.float32).astype(float), k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, abs=1e-12)


def test_a_perfect_model_has_the_coverage_of_the_formula(generator: np.random.Generator) -> None:
    """1 - 2^-k for equal numbers, whatever D; and .379 for a tenth of the samples at k = 5."""
    assert perfect_coverage(10_000, 10_000, 3) == pytest.approx(0.875, abs=1e-3)
    assert perfect_coverage(10_000, 1000, 5) == pytest.approx(0.379, abs=1e-3)
    pairs = generator.standard_normal((20, 2, 400, 8))
    sets = [compare(made, real, 3).coverage for made, real in pairs]
    assert np.mean(sets) == pytest.approx(perfect_coverage(400, 400, 3), abs=0.01)


def test_neighbours_of_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="3 features against 4"):
        compare(np.zeros((9, 3)), np.zeros((9, 4)), 3)
    with pytest.raises(ValueError, match="3 samples have no 3 neighbours"):
        compare(np.zeros((3, 3)), np.zeros((9, 3)), 3)


def test_kernel_distance_is_its_definition(generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.evaluation.kernel.ROWS", 7)
    x, y = generator.standard_normal((30, 5)) + 0.5, generator.standard_normal((20, 5))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 5 + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    expected = (xx.sum() - np.trace(xx)) / (30 * 29) + (yy.sum() - np.trace(yy)) / (20 * 19) - 2 * xy.mean()
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_is_near_the_spread(generator: np.random.Generator) -> None:
    """Mean 0 at P = Q; where P != Q the error is that of the samples, up to 1.5 times too large."""
    real = generator.standard_normal((400, 8))
    same = [
        kernel_distance(generator.standard_normal((200, 8)), generator.standard_normal((200, 8)))[0] for _ in range(60)
    ]
    assert abs(np.mean(same)) < 3 * np.std(same) / 60**0.5
    found = [kernel_distance(generator.standard_normal((200, 8)) + 0.3, real) for _ in range(60)]
    spread = np.std([value for value, _ in found])
    assert 0.8 < np.mean([error for _, error in found]) / spread < 1.9


def test_inception_score_of_sure_and_of_unsure_probabilities() -> None:
    """K classes, each sure and equally frequent in every part: K; all unsure: 1."""
    sure = np.tile(np.eye(5), (20, 1))
    assert inception_score(sure) == pytest.approx((5, 0))
    assert inception_score(np.full((100, 5), 0.2)) == pytest.approx((1, 0))
    with pytest.raises(ValueError, match="9 samples"):
        inception_score(np.ones((9, 2)))
