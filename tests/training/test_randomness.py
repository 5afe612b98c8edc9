"""Noise that belongs to a position: independent of how positions are split, and truly normal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.run.randomness import derive_seed, keys, normals, uniforms


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 2**40), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), width=st.integers(1, 40))
def test_splits_concatenate(first: int, sizes: list[int], width: int) -> None:
    """Drawing in pieces, as ranks and restarts do, gives the numbers of drawing at once."""
    whole = normals(7, "z", first, sum(sizes), width)
    starts = [first + sum(sizes[:i]) for i in range(len(sizes))]
    pieces = [normals(7, "z", start, size, width) for start, size in zip(starts, sizes, strict=True)]
    assert torch.equal(torch.cat(pieces), whole)


def test_distribution_is_normal() -> None:
    """Kolmogorov-Smirnov over 200,000 numbers, moments, and no correlation between the two of a pair."""
    x = normals(0, "z", 0, 1000, 200).double()
    assert scipy.stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    assert x.mean().item() == pytest.approx(0, abs=0.01)
    assert x.pow(4).mean().item() == pytest.approx(3, abs=0.05)
    assert abs(np.corrcoef(x[:, 0::2].flatten(), x[:, 1::2].flatten())[0, 1]) < 0.01
    assert x.isfinite().all()


@pytest.mark.parametrize("draw", [uniforms, keys])
@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 2**40), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_splits_of_single_numbers_concatenate(draw: Any, first: int, sizes: list[int]) -> None:
    """One number a position, however positions are split."""
    starts = [first + sum(sizes[:i]) for i in range(len(sizes))]
    pieces = [draw(7, "s", start, size) for start, size in zip(starts, sizes, strict=True)]
    assert torch.equal(torch.cat(pieces), draw(7, "s", first, sum(sizes)))


def test_single_numbers_are_uniform() -> None:
    """Kolmogorov-Smirnov over 20,000 numbers; each bit of a key is set in half of them, and none recurs."""
    u = uniforms(0, "s", 0, 20_000)
    assert scipy.stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-3
    assert u.max() < 1
    words = keys(0, "s", 0, 20_000)
    bits = words[:, None] >> torch.arange(64) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 0.02
    assert len(words.unique()) == 20_000
    assert not torch.equal(keys(1, "s", 0, 4), words[:4])


def test_seeds_purposes_and_positions_differ() -> None:
    """No two streams share numbers."""
    streams = [normals(0, "z", 0, 1, 8), normals(1, "z", 0, 1, 8), normals(0, "t", 0, 1, 8), normals(0, "z", 1, 1, 8)]
    flat = torch.stack([s.flatten() for s in streams])
    assert len(torch.unique(flat)) == flat.numel()


def test_derived_seeds_are_stable() -> None:
    """The value is part of the product: a change would silently change every run."""
    assert derive_seed(0, "order") == 3158364644068102879
    assert derive_seed(0, "order") != derive_seed(0, "init")
