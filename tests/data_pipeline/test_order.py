from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order import SampleOrder

SIZES = st.integers(1, 50)
SEEDS = st.integers(0, 2**64 - 1)


@settings(deadline=None, derandomize=True)
@given(samples=SIZES, seed=SEEDS, epoch=st.integers(0, 2**40))
def test_each_sample_comes_once_an_epoch(samples: int, seed: int, epoch: int) -> None:
    order = SampleOrder(samples, seed).indices(epoch * samples, samples)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(samples))


@settings(deadline=None, derandomize=True)
@given(samples=SIZES, seed=SEEDS, first=st.integers(0, 200), counts=st.lists(st.integers(0, 120), max_size=6))
def test_slices_join(samples: int, seed: int, first: int, counts: list[int]) -> None:
    """A run in pieces, each piece by a new process or by the same, sees what a run without a stop sees."""
    whole = SampleOrder(samples, seed).indices(first, sum(counts))
    starts = first + np.cumsum([0, *counts])[:-1]
    same = SampleOrder(samples, seed)
    for source in (lambda: same, lambda: SampleOrder(samples, seed)):
        pieces = [source().indices(int(start), count) for start, count in zip(starts, counts, strict=True)]
        np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int64), *pieces]), whole)


@settings(deadline=None, derandomize=True)
@given(samples=SIZES, seed=SEEDS, half=st.integers(1, 20), steps=st.integers(1, 8))
def test_one_process_sees_what_two_see(samples: int, seed: int, half: int, steps: int) -> None:
    """Rank r of two takes its half of each batch."""
    one = SampleOrder(samples, seed).indices(0, 2 * half * steps)
    ranks = [SampleOrder(samples, seed) for _ in range(2)]
    two = [ranks[r].indices((2 * step + r) * half, half) for step in range(steps) for r in range(2)]
    np.testing.assert_array_equal(np.concatenate(two), one)


def test_permutations_are_uniform_and_differ_by_epoch_and_seed() -> None:
    """All 6 orders of 3 samples are equally frequent, over epochs and over seeds (5 standard deviations)."""
    rounds = 6000
    by_epoch = SampleOrder(3, 5).indices(0, 3 * rounds).reshape(rounds, 3)
    by_seed = np.stack([SampleOrder(3, seed).indices(0, 3) for seed in range(rounds)])
    for orders in (by_epoch, by_seed):
        counts = np.unique(orders, axis=0, return_counts=True)[1]
        assert len(counts) == 6
        assert np.abs(counts - rounds / 6).max() < 5 * np.sqrt(rounds * (1 / 6) * (5 / 6))


def test_order_is_frozen() -> None:
    """Resuming with another version must give the same order: the raw Philox stream, sorted."""
    assert SampleOrder(10, 1).indices(15, 10).tolist() == FROZEN


FROZEN = [9, 7, 8, 2, 1, 4, 2, 0, 6, 1]


@pytest.mark.parametrize(("samples", "seed"), [(0, 0), (3, -1), (3, 2**64)])
def test_bad_arguments(samples: int, seed: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        SampleOrder(samples, seed)


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0, -1)])
def test_negative_positions(first: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        SampleOrder(3, 0).indices(first, count)
