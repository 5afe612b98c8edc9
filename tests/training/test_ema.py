"""Averages of the weights against their closed forms."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from scaling.config.sections import Ema
from scaling.training.ema import Averages, power_exponent, profile_name
from scaling.training.sharding.pieces import Piece

BATCH = 8


def whole(**tensors: Tensor) -> dict[str, Piece]:
    """Tensors as one rank holds them alone."""
    return {name: Piece(tensor.flatten(), 0, tuple(tensor.shape)) for name, tensor in tensors.items()}


def averaged(path: Iterable[float], ema: Ema, profile: str) -> float:
    """The average of one number that starts at 0 and takes the values of `path`, one an update."""
    theta = torch.zeros(1)
    averages = Averages(whole(theta=theta), ema, BATCH)
    for update, value in enumerate(path, 1):
        theta.fill_(value)
        averages.update(whole(theta=theta), update)
    return averages.pieces(profile)["theta"].local.item()


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_of_edm2(sigma_rel: float, gamma: float) -> None:
    """The published exponents, and the width that they give: (g+1)^.5 (g+2)^-1 (g+3)^-.5."""
    g = power_exponent(sigma_rel)
    assert g == pytest.approx(gamma, abs=0.005)
    assert (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5 == pytest.approx(sigma_rel, rel=1e-10)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, float("nan")])
def test_impossible_widths_are_refused(sigma_rel: float) -> None:
    """The error says the range."""
    with pytest.raises(ValueError, match="out of range"):
        power_exponent(sigma_rel)


@pytest.mark.parametrize("power", [1, 2])
def test_average_of_a_known_path(power: int) -> None:
    """theta = t^k: t^k (g+1)/(g+1+k) in the limit; before it the sum with the profile's integral over each update."""
    steps, sigma_rel = 2000, 0.1
    path = (np.arange(1, steps + 1) / steps) ** power
    average = averaged(path.tolist(), Ema(sigma_rel=(sigma_rel,)), "ema-0.1")
    g = power_exponent(sigma_rel)
    assert average == pytest.approx((g + 1) / (g + 1 + power), rel=1e-3)
    edges = np.linspace(0, 1, steps + 1) ** (g + 1)
    assert average == pytest.approx(np.diff(edges) @ path, rel=2e-6)


def test_half_lives_count_images() -> None:
    """A constant is half known after a half-life; theta = n lags by b (1 - b^n) / (1 - b)."""
    ema = Ema(half_life_images=(50 * BATCH,))
    assert averaged([1.0] * 50, ema, "ema-400images") == pytest.approx(0.5, rel=1e-5)
    assert averaged([1.0] * 100, ema, "ema-400images") == pytest.approx(0.75, rel=1e-5)
    beta, steps = 0.5 ** (1 / 50), 120
    lag = beta * (1 - beta**steps) / (1 - beta)
    assert averaged(range(1, steps + 1), ema, "ema-400images") == pytest.approx(steps - lag, rel=1e-5)


def test_every_profile_is_kept_under_its_name() -> None:
    """Power functions by sigma_rel, half-lives by images, also where a number that names one is read as a float."""
    averages = Averages(whole(w=torch.zeros(2)), Ema(sigma_rel=(0.05, 0.1), half_life_images=(500_000,)), BATCH)
    assert averages.names == ("ema-0.05", "ema-0.1", "ema-500000images")
    assert [profile_name(value) for value in (0.05, 0.1, 500_000, 500_000.0)] == [*averages.names, averages.names[2]]


def test_the_first_update_forgets_the_start() -> None:
    """beta of a power function is 0 at the first update; half-lives keep what they start from."""
    start, after = whole(w=torch.full((2, 3), 5.0)), whole(w=torch.full((2, 3), 3.0))
    averages = Averages(start, Ema(sigma_rel=(0.05, 0.1), half_life_images=(BATCH,)), BATCH)
    assert all(averages.pieces(name)["w"].local.eq(5).all() for name in averages.names)
    averages.update(after, 1)
    assert [averages.pieces(name)["w"].local[0].item() for name in averages.names] == [3.0, 3.0, 4.0]
    assert start["w"].local.eq(5).all()


def test_the_bits_are_those_of_a_lerp_a_tensor() -> None:
    """Flattened pieces change no bit of (1 - beta) theta + beta average with beta = (1 - 1/n)^(gamma + 1)."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (5, 3, 3, 3), "b": (7,), "c": ()}
    averages = Averages(whole(**{n: torch.zeros(s) for n, s in shapes.items()}), Ema(sigma_rel=(0.05,)), BATCH)
    plain = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for update in range(1, 40):
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        averages.update(whole(**weights), update)
        beta = (1 - 1 / update) ** (power_exponent(0.05) + 1)
        plain = {name: torch.lerp(plain[name], weights[name], 1 - beta) for name in shapes}
    for name, piece in averages.pieces("ema-0.05").items():
        assert torch.equal(piece.local.reshape(piece.shape), plain[name])
        assert (piece.offset, piece.shape) == (0, shapes[name])


def test_ranks_average_what_they_hold() -> None:
    """The averages of pieces, an empty one among them, are the pieces of the average."""
    generator = torch.Generator().manual_seed(0)
    start, after = torch.randn(2, 3, 5, generator=generator)
    ema, cuts = Ema(sigma_rel=(0.1,), half_life_images=(100,)), (0, 4, 4, 15)

    def pieces(tensor: Tensor, first: int, last: int) -> dict[str, Piece]:
        return {"w": Piece(tensor.flatten()[first:last], first, (3, 5), replica=1, replicas=2)}

    def after_two(first: int, last: int) -> Averages:
        averages = Averages(pieces(start, first, last), ema, BATCH)
        for update in (1, 2):
            averages.update(pieces(after * update, first, last), update)
        return averages

    ranks = [after_two(*run) for run in pairwise(cuts)]
    for name in ranks[0].names:
        held = [rank.pieces(name)["w"] for rank in ranks]
        assert [(piece.offset, piece.replica, piece.replicas) for piece in held] == [(0, 1, 2), (4, 1, 2), (4, 1, 2)]
        alone = after_two(0, 15).pieces(name)["w"].local
        torch.testing.assert_close(torch.cat([piece.local for piece in held]), alone, rtol=1e-6, atol=1e-7)
