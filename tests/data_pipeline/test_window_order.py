from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order import SampleOrder, WindowOrder, permutation, run_bounds

SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(np.array)
BLOCKS, BLOCK, SEEDS = st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**64 - 1)


@settings(deadline=None, derandomize=True)
@given(shards=SHARDS, blocks=BLOCKS, block=BLOCK, seed=SEEDS, epoch=st.integers(0, 2**30))
def test_each_sample_comes_once_an_epoch_and_within_its_window(
    shards: np.ndarray, blocks: int, block: int, seed: int, epoch: int
) -> None:
    """A window is `blocks` runs; all that comes while a position lies in it is of these runs, each sample once."""
    order, total = WindowOrder(run_bounds(shards, block), blocks, seed), int(shards.sum())
    seen = order.indices(epoch * total, total)
    assert sorted(seen.tolist()) == list(range(total))
    done, window = 0, (epoch, 0)
    while done < total:
        found, runs = order.window(epoch * total + done)
        assert found == window
        assert len(runs) <= blocks
        held = [n for first, count in runs.tolist() for n in range(first, first + count)]
        assert sorted(seen[done : done + len(held)].tolist()) == sorted(held)
        done, window = done + len(held), order.following(window)
    assert window == (epoch + 1, 0)
    np.testing.assert_array_equal(order.runs(window), order.window((epoch + 1) * total)[1])


@settings(deadline=None, derandomize=True)
@given(shards=SHARDS, blocks=BLOCKS, block=BLOCK, counts=st.lists(st.integers(0, 40), max_size=6))
def test_slices_join(shards: np.ndarray, blocks: int, block: int, counts: list[int]) -> None:
    """Resumed by its position alone, by a new process or by the same."""
    bounds = run_bounds(shards, block)
    whole = WindowOrder(bounds, blocks, 3).indices(7, sum(counts))
    starts = 7 + np.cumsum([0, *counts])[:-1]
    same = WindowOrder(bounds, blocks, 3)
    for source in (lambda: same, lambda: WindowOrder(bounds, blocks, 3)):
        pieces = [source().indices(int(start), count) for start, count in zip(starts, counts, strict=True)]
        np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int64), *pieces]), whole)


def test_runs_are_samples_or_whole_shards() -> None:
    shards = np.array([3, 1, 4])
    assert run_bounds(shards, 0).tolist() == [0, 3, 4, 8]
    assert run_bounds(shards, 3).tolist() == [0, 3, 6, 8]
    assert run_bounds(shards, 4).tolist() == [0, 4, 8]


def test_epochs_and_seeds_differ_and_the_order_is_frozen() -> None:
    bounds = run_bounds(np.array([8]), 2)
    first, second = (WindowOrder(bounds, 2, seed).indices(0, 16).tolist() for seed in (1, 2))
    assert first[:8] != first[8:]
    assert first != second
    assert first == FROZEN


FROZEN = [5, 7, 6, 4, 2, 3, 1, 0, 6, 7, 1, 0, 5, 4, 3, 2]


def test_one_window_of_all_runs_mixes_like_a_full_shuffle() -> None:
    """Every sample is equally frequent at every place: 4 samples, 2 runs, 6000 epochs (5 standard deviations)."""
    rounds = 6000
    seen = WindowOrder(np.array([0, 2, 4]), 2, 5).indices(0, 4 * rounds).reshape(rounds, 4)
    counts = np.stack([(seen == n).sum(0) for n in range(4)])
    assert np.abs(counts - rounds / 4).max() < 5 * np.sqrt(rounds * (1 / 4) * (3 / 4))


def test_parts_sort_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.random.Philox(key=np.array([9, 4], np.uint64)).random_raw(1000)
    for part in (1000, 999, 100, 7):
        monkeypatch.setattr("data_pipeline.order.PART", part)
        np.testing.assert_array_equal(permutation(1000, 9, 4), np.argsort(bits, kind="stable"))


def test_a_full_shuffle_is_one_window_an_epoch() -> None:
    order = SampleOrder(10, 0)
    window, runs = order.window(25)
    assert (window, runs.tolist()) == ((2, 0), [[0, 10]])
    assert order.following(window) == order.window(30)[0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="blocks is 0"):
        WindowOrder(np.array([0, 2]), 0, 1)
