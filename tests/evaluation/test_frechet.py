from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from scaling.evaluation.frechet import Reference, frechet_distance
from scaling.evaluation.moments import Moments, feature_statistics


def random_covariance(generator: np.random.Generator, size: int) -> np.ndarray:
    factor = generator.standard_normal((size, size + 3))
    return factor @ factor.T


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(7))


def test_statistics_are_those_of_numpy(generator: np.random.Generator) -> None:
    features = generator.standard_normal((50, 6)).astype(np.float32) * 100 + 1000
    mean, covariance = feature_statistics(features)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)


def test_one_dimension() -> None:
    """Two normal distributions: (m1 - m2)^2 + (s1 - s2)^2."""
    distance = frechet_distance(np.array([1.0]), np.array([[9.0]]), np.array([3.0]), np.array([[0.25]]))
    assert distance == pytest.approx((1 - 3) ** 2 + (3 - 0.5) ** 2, rel=1e-14)


def test_commuting_covariances(generator: np.random.Generator) -> None:
    """With common eigenvectors: |m1 - m2|^2 + sum of (s1 - s2)^2 over the axes."""
    axes, _ = np.linalg.qr(generator.standard_normal((8, 8)))
    deviations = generator.uniform(0.1, 3, (2, 8))
    means = generator.standard_normal((2, 8))
    covariances = [axes @ np.diag(s**2) @ axes.T for s in deviations]
    distance = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_against_the_matrix_root(generator: np.random.Generator, size: int) -> None:
    means = generator.standard_normal((2, size))
    first, second = (random_covariance(generator, size) for _ in range(2))
    root = np.real(scipy.linalg.sqrtm(first @ second))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(means[0], first, means[1], second) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(means[1], second, means[0], first) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances() -> None:
    """Units that never fire, and a pair on different axes: tr S1 + tr S2, for the product's root is zero."""
    zero = np.zeros(3)
    first, second = np.diag([4.0, 0, 0]), np.diag([0, 9.0, 0])
    assert frechet_distance(zero, first, zero, second) == pytest.approx(13, rel=1e-14)
    assert frechet_distance(zero, first, zero, first) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(zero, np.zeros((3, 3)), np.ones(3), np.zeros((3, 3))) == pytest.approx(3)


def test_a_set_has_no_distance_to_itself(generator: np.random.Generator) -> None:
    features = generator.standard_normal((200, 64)) @ generator.standard_normal((64, 64))
    reference = Reference.from_features(features)
    assert 0 <= reference.distance(features) < 1e-6 * np.trace(reference.covariance)
    permuted = generator.permutation(features)
    assert reference.distance(permuted) == pytest.approx(0, abs=1e-6 * np.trace(reference.covariance))


def test_features_of_low_rank_cost_no_accuracy(generator: np.random.Generator) -> None:
    """Rank 40 of 256: no distance to itself, and a shift of 0.01 is 1e-4, at a trace of 1e5."""
    features = generator.standard_normal((2000, 40)) @ generator.standard_normal((40, 256)) * 3
    reference = Reference.from_features(features)
    assert np.trace(reference.covariance) > 9e4
    assert reference.distance(features) == pytest.approx(0, abs=1e-9)
    assert reference.distance(features + 0.01 * np.eye(256)[3]) == pytest.approx(1e-4, rel=1e-4)


def unfit(mean: np.ndarray, covariance: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """Statistics that are none of a Gaussian, and what they are told."""
    nan, bent, turned = mean.copy(), covariance.copy(), covariance.copy()
    nan[1], bent[0, 1], turned[2, 2] = np.nan, bent[0, 1] + 0.1, -0.1
    return {
        "a NaN in the mean": (nan, covariance, "the mean holds NaN"),
        "a NaN in the covariance": (mean, covariance * np.nan, "the covariance holds NaN"),
        "a mean that broadcasts": (mean[:1], covariance, r"shapes \[1\] and \[3, 3\]"),
        "a row": (mean[None], covariance, r"shapes \[1, 3\] and"),
        "text": (mean.astype(str), covariance, "no numbers"),
        "asymmetric": (mean, bent, "the covariance is not symmetric"),
        "indefinite": (mean, turned, r"indefinite: its eigenvalues are -0\.1 to 1"),
        "negative": (mean, -covariance, "indefinite"),
    }


UNFIT = unfit(np.zeros(3), np.eye(3))


@pytest.mark.parametrize("kind", UNFIT)
def test_statistics_of_no_gaussian_are_refused_on_either_side(kind: str) -> None:
    mean, covariance, message = UNFIT[kind]
    for statistics in ((mean, covariance, np.zeros(3), np.eye(3)), (np.zeros(3), np.eye(3), mean, covariance)):
        with pytest.raises(ValueError, match=message):
            frechet_distance(*statistics)


def test_statistics_of_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="statistics of 4 features against those of 3"):
        frechet_distance(np.zeros(4), np.eye(4), np.zeros(3), np.eye(3))


def test_statistics_kept_in_float32_pass(generator: np.random.Generator) -> None:
    features = generator.standard_normal((300, 20)) @ generator.standard_normal((20, 64))
    mean, covariance = (values.astype(np.float32) for values in feature_statistics(features))
    assert Reference(mean, covariance).distance(features) == pytest.approx(0, abs=1e-3)


def test_shift_and_scale_of_features(generator: np.random.Generator) -> None:
    """A shift by v alone costs |v|^2; a common scale c multiplies the distance by c^2."""
    features = generator.standard_normal((300, 5))
    other = generator.standard_normal((300, 5)) * 1.5
    shift = np.array([1.0, -2, 0, 0, 0.5])
    assert Reference.from_features(features).distance(features + shift) == pytest.approx(shift @ shift, rel=1e-6)
    distance = Reference.from_features(features).distance(other)
    assert Reference.from_features(3 * features).distance(3 * other) == pytest.approx(9 * distance, rel=1e-10)


def test_floor_is_the_known_bias(generator: np.random.Generator) -> None:
    """N samples against the exact unit Gaussian in D dimensions: D / N from the mean and D (D + 1) / (4 N) from the
    covariance, to first order (E tr (S^(1/2) - 1)^2 with S - 1 of variance 1/N off and 2/N on the diagonal)."""
    size, samples = 6, 2000
    reference = Reference(np.zeros(size), np.eye(size))
    floors = [reference.distance(generator.standard_normal((samples, size))) for _ in range(300)]
    expected = size / samples + size * (size + 1) / (4 * samples)
    assert np.mean(floors) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused(generator: np.random.Generator, value: float) -> None:
    features = generator.standard_normal((10, 3)).astype(np.float32)
    features[[4, 7], 1] = value
    with pytest.raises(ValueError, match="2 of 10 samples have non-finite features, the first is number 4"):
        Reference.from_features(features)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5,), (2, 3, 4)])
def test_shapes_that_are_no_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        feature_statistics(np.zeros(shape))


@pytest.mark.parametrize("samples", [40, 1000])
def test_against_the_matrix_root_of_real_covariances(generator: np.random.Generator, samples: int) -> None:
    """N above and below D = 64, eigenvalues falling as 1 / i: what others compute with a complex root."""
    scales = np.arange(1, 65) ** -0.5
    first = generator.standard_normal((samples, 64)) * scales
    second = generator.standard_normal((5000, 64)) * scales
    (mean1, covariance1), (mean2, covariance2) = feature_statistics(first), feature_statistics(second)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2)
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(covariance1 + covariance2) - 2 * np.trace(root).real
    exact = np.linalg.svd((first - mean1) / np.sqrt(samples - 1) @ np.linalg.cholesky(covariance2), compute_uv=False)
    found = Reference(mean2, covariance2).distance(first)
    assert found == pytest.approx(expected, rel=1e-6)
    traces = ((mean1 - mean2) ** 2).sum() + np.trace(covariance1) + np.trace(covariance2)
    assert found == pytest.approx(traces - 2 * exact.sum(), rel=1e-7)


def test_parts_of_a_stream_join_to_the_whole(generator: np.random.Generator) -> None:
    """In any order, of any size, also where the mean is far from 0."""
    features = generator.standard_normal((1000, 8)) + 1e4
    whole = Moments.of(features)
    parts = [Moments.of(part) for part in np.split(features, [1, 300, 305])]
    joined = parts[3].joined(parts[0]).joined(parts[2]).joined(parts[1])
    assert joined.count == 1000
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(joined.squares, whole.squares, rtol=1e-9)
    with pytest.raises(ValueError, match="3 features beside 8"):
        whole.joined(Moments.of(features[:, :3]))
