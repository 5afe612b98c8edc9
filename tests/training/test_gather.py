"""Whole tensors from the pieces of several ranks, however they were cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from scaling.training.sharding.gather import gather
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World, joined
from tests.ranks import run_ranks

# A tensor's shape, and where each rank's run ends; None: every rank holds all of it.
Cut = tuple[tuple[int, ...], Sequence[int] | None]
CUTS: dict[int, dict[str, Cut]] = {
    2: {
        "even": ((4, 3), (6, 12)),
        "inside a row": ((4, 3), (5, 12)),
        "all on the first": ((5,), (5, 5)),
        "none on the first": ((2, 2, 2), (0, 8)),
        "replicated": ((7,), None),
        "number": ((), None),
        "nothing": ((0, 3), (0, 0)),
    },
    3: {
        "uneven": ((5, 2), (1, 9, 10)),
        "none in the middle": ((3, 3), (4, 4, 9)),
        "one of three": ((), (0, 0, 1)),
        "replicated": ((2, 5), None),
        "fewer than ranks": ((2,), None),
    },
}


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """1/3, 2/3, ...: numbers that a sum of more than one part would not leave as they are."""
    return (torch.arange(1, math.prod(shape) + 1, dtype=torch.float64) / 3).to(dtype).reshape(shape)


def piece(whole: Tensor, ends: Sequence[int] | None, rank: int, size: int) -> Piece:
    flat, shape = whole.flatten(), tuple(whole.shape)
    if ends is None:
        return Piece(flat, 0, shape, rank, size)
    first = ends[rank - 1] if rank else 0
    return Piece(flat[first : ends[rank]], first, shape)


def gathered(size: int, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], list[float], str]] | None:
    """What `gather` gives this rank, as plain values."""
    with joined(torch.device("cpu")) as world:
        pieces = {n: piece(tensor(s, dtype), ends, world.rank, size) for n, (s, ends) in CUTS[size].items()}
        found = gather(pieces, world)
    if found is None:
        return None
    return {n: (tuple(t.shape), t.flatten().tolist(), str(t.dtype)) for n, t in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_the_first_rank_gets_whole_tensors_and_the_others_none(size: int, dtype: torch.dtype) -> None:
    first, *others = run_ranks(size, gathered, size, dtype)
    wanted = {n: tensor(s, dtype) for n, (s, _) in CUTS[size].items()}
    assert first == {n: (tuple(t.shape), t.flatten().tolist(), str(t.dtype)) for n, t in wanted.items()}
    assert list(first) == list(CUTS[size])
    assert others == [None] * (size - 1)


def gathered_from_copies() -> list[float] | None:
    """Two ranks share one copy of the tensor, and two another, as HSDP has it."""
    with joined(torch.device("cpu")) as world:
        flat, (copy, share) = tensor((5, 3), torch.float32).flatten(), divmod(world.rank, 2)
        run = flat[9:] if share else flat[:9]
        found = gather({"w": Piece(run, 9 * share, (5, 3), copy, 2)}, world)
    return None if found is None else found["w"].flatten().tolist()


def test_copies_that_are_shared_count_once() -> None:
    wanted = tensor((5, 3), torch.float32).flatten().tolist()
    assert run_ranks(4, gathered_from_copies) == [wanted, None, None, None]


def test_a_world_of_one_has_its_own_copy() -> None:
    weights = torch.ones(2, 3)
    found = gather({"w": Piece(weights.view(-1), 0, (2, 3))}, World(0, 1, torch.device("cpu")))
    assert found is not None
    weights.zero_()
    assert found["w"].equal(torch.ones(2, 3))
