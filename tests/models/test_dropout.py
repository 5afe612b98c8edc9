"""The counter-based dropout mask: its share, its independence, and what it depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.dropout import Dropout, dropout


def mask(keys: Tensor, shape: tuple[int, ...] = (64, 16, 16), rate: float = 0.3, block: int = 0) -> Tensor:
    """Which elements are kept, float64 [B, C, H, W]."""
    drop = Dropout(rate, keys).at(16, block)
    assert drop is not None
    kept = dropout(torch.ones(len(keys), *shape, dtype=torch.float64), drop)
    assert isinstance(kept, Tensor)
    return (kept != 0).double()


def correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of two masks of one shape."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_what_is_kept_is_scaled_to_keep_the_mean() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    out = dropout(x, Dropout(0.25, torch.arange(2)))
    assert isinstance(out, Tensor)
    assert set((out / x).flatten().round(decimals=12).tolist()) == {0.0, round(4 / 3, 12)}


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.9])
def test_the_share_dropped_is_the_rate(rate: float) -> None:
    """Over 2^17 elements of sequential keys, within five standard deviations."""
    kept = mask(torch.arange(8), rate=rate)
    deviation = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - rate, abs=5 * deviation)


@pytest.mark.parametrize("distance", [1, 2, 2**16, 2**31, 2**32, 2**40, 2**62])
def test_masks_of_neighbouring_keys_are_unrelated(distance: int) -> None:
    a, b = mask(torch.tensor([7, 7 ^ distance]), shape=(128, 32, 32))
    assert abs(correlation(a, b)) < 5 / a.numel() ** 0.5


def test_no_mask_is_another_one_rearranged() -> None:
    """Keys that differ in bits of the element's number: with one round, rows of one mask would be rows of the other."""
    a, b = (m.reshape(-1, 256) for m in mask(torch.tensor([5, 5 ^ 2**42 ^ 256])))
    assert not (a[:, None] == b[None]).all(2).any()


def test_neighbouring_elements_are_unrelated() -> None:
    flat = mask(torch.arange(4)).flatten(1)
    for step in (1, 2, 16, 256):
        assert abs(correlation(flat[:, :-step], flat[:, step:])) < 5 / flat.numel() ** 0.5


def test_blocks_draw_masks_of_their_own() -> None:
    keys = torch.arange(4) * 10**12
    masks = [mask(keys, block=n) for n in range(40)]
    for n in range(1, 40):
        assert abs(correlation(masks[0], masks[n])) < 5 / masks[0].numel() ** 0.5


def test_a_sample_keeps_its_mask_in_any_batch() -> None:
    """As samples are spread over devices, or layouts change, nothing else is drawn."""
    keys = torch.tensor([3, 14, 15, 92])
    assert torch.equal(mask(keys)[2:3], mask(keys[2:3]))
    x = torch.rand(4, 8, 6, 6)
    drop = Dropout(0.5, keys)
    assert torch.equal(dropout(x, drop), dropout(x.to(memory_format=torch.channels_last), drop))  # pyright: ignore


def test_the_bound_of_resolutions() -> None:
    drop = Dropout(0.5, torch.arange(2), max_resolution=16)
    assert drop.at(32, 0) is None
    assert drop.at(16, 0) is not None
    assert drop.at(8, 0) is not None
    assert drop._replace(max_resolution=None).at(512, 0) is not None
    assert drop._replace(rate=0.0).at(8, 0) is None
