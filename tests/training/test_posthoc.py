"""Reconstructed averages against integrals, and against averages that were tracked."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from scaling.config.sections import Ema
from scaling.training.ema import Averages, power_exponent, profile_name
from scaling.training.sharding.pieces import Piece
from scaling.weights.ema import fit_profile, inner_product

STORED = (0.05, 0.10)
STEPS, EVERY = 512, 32


def profile(time: float, gamma: float, s: float) -> float:
    """(gamma + 1) / t (s / t)^gamma up to t."""
    return (gamma + 1) / time * (s / time) ** gamma if s <= time else 0.0


@pytest.mark.parametrize("pair", list(product([(1.0, 6.94), (0.4, 16.97), (1.0, 0.0)], repeat=2)))
def test_inner_products_are_those_integrals(pair: tuple[tuple[float, float], tuple[float, float]]) -> None:
    (t_a, g_a), (t_b, g_b) = pair
    integral, _ = quad(lambda s: profile(t_a, g_a, s) * profile(t_b, g_b, s), 0, min(t_a, t_b), epsabs=1e-13)
    assert inner_product(t_a, g_a, t_b, g_b) == pytest.approx(integral, rel=1e-9)


def stored(times: list[int], widths: tuple[float, ...] = STORED) -> tuple[np.ndarray, np.ndarray]:
    """Times and exponents of all widths at all times."""
    pairs = list(product(times, widths))
    return np.array([time for time, _ in pairs], float), np.array([power_exponent(width) for _, width in pairs])


def weights_of(time: int, sigma_rel: float, steps: int) -> np.ndarray:
    """What an average after `time` updates gives to each of `steps` updates: from the recurrence itself."""
    exponent = power_exponent(sigma_rel) + 1
    weights = np.zeros(steps)
    for step in range(1, time + 1):
        beta = (1 - 1 / step) ** exponent
        weights *= beta
        weights[step - 1] = 1 - beta
    return weights


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.25])
def test_the_sum_is_the_nearest_of_all_and_its_error_is_told(sigma_rel: float) -> None:
    """Against least squares over the weights of single updates, with the sum of factors held at 1."""
    times = list(range(EVERY, STEPS + 1, EVERY))
    factors, error = fit_profile(*stored(times), STEPS, power_exponent(sigma_rel))
    basis = np.stack([weights_of(time, width, STEPS) for time, width in product(times, STORED)], axis=1)
    target = weights_of(STEPS, sigma_rel, STEPS)
    assert factors.sum() == pytest.approx(1, abs=1e-12)
    scale = np.linalg.norm(target)
    distance = np.linalg.norm(basis @ factors - target) / scale
    assert error == pytest.approx(distance, rel=0.1)
    free = basis[:, 1:] - basis[:, :1]  # factors that sum to 1, by all but the first
    best = np.linalg.lstsq(free, target - basis[:, 0], rcond=None)[0]
    assert distance == pytest.approx(np.linalg.norm(free @ best + basis[:, 0] - target) / scale, rel=0.02)


def test_a_stored_profile_is_itself() -> None:
    times, gammas = stored([100, 200, 300])
    for n in range(len(times)):
        factors, error = fit_profile(times, gammas, times[n], gammas[n])
        assert factors == pytest.approx(np.eye(len(times))[n], abs=1e-9)
        assert error < 1e-6


def test_a_single_average_is_taken_as_it_is() -> None:
    """Its distance from another width is that of the two profiles: sqrt(1 - 2 <p, q> / <p, p> + <q, q> / <p, p>)."""
    g, h = power_exponent(0.1), power_exponent(0.2)
    factors, error = fit_profile(np.array([50.0]), np.array([g]), 50, h)
    assert factors == pytest.approx([1.0])
    square, _ = quad(lambda s: (profile(1, g, s) - profile(1, h, s)) ** 2, 0, 1)
    norm, _ = quad(lambda s: profile(1, h, s) ** 2, 0, 1)
    assert error == pytest.approx((square / norm) ** 0.5, rel=1e-9)


def test_late_times_and_narrow_profiles_are_no_trouble() -> None:
    """Nothing overflows, nearly equal profiles do not make large factors."""
    times, gammas = stored([1, 1000, 999_999, 1_000_000, 2_000_000], (0.002, 0.05, 0.1))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        factors, error = fit_profile(times, gammas, 2_000_000, power_exponent(0.06))
    assert np.abs(factors).max() < 10
    assert factors.sum() == pytest.approx(1, abs=1e-9)
    assert 0 < error < 0.1


@pytest.mark.parametrize("time", [STEPS, STEPS - 2 * EVERY])
@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.15])
def test_a_width_that_was_not_kept_is_as_if_it_had_been(sigma_rel: float, time: int) -> None:
    """Random weights that drift: from float32 averages of .05 and .10 to within 1e-3 of what tracking it gives."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(STEPS, 40, generator=generator).cumsum(0) / 20 + torch.randn(40, generator=generator)
    averages = Averages({"w": Piece(walk[0], 0, (40,))}, Ema(sigma_rel=(*STORED, 0.07, 0.15)), batch=1)
    kept: dict[tuple[int, float], torch.Tensor] = {}
    for step in range(1, time + 1):
        averages.update({"w": Piece(walk[step - 1], 0, (40,))}, step)
        if step % EVERY == 0:
            kept |= {(step, s): averages.pieces(profile_name(s))["w"].local.double() for s in STORED}
    tracked = averages.pieces(profile_name(sigma_rel))["w"].local.double()
    times, gammas = stored(list(range(EVERY, time + 1, EVERY)))
    factors, _ = fit_profile(times, gammas, time, power_exponent(sigma_rel))
    made = sum(x * average for x, average in zip(factors.tolist(), kept.values(), strict=True))
    difference = (made - tracked).norm() / tracked.norm()
    assert difference < (1e-6 if sigma_rel in STORED else 1e-3)
    nearest = averages.pieces("ema-0.1" if sigma_rel > 0.1 else "ema-0.05")["w"].local
    assert sigma_rel in STORED or (nearest - tracked).norm() / tracked.norm() > 0.01
