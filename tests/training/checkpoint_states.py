"""States to save: tensors by name that are known from a number, and the pieces that ranks hold of them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

from scaling.training.checkpoints.checkpoint import Checkpoint, Checkpointer, load
from scaling.training.checkpoints.files import path_of
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World

ALONE = World(0, 1, torch.device("cpu"))
SHAPES: dict[str, tuple[int, ...]] = {
    "model/conv.weight": (7, 5, 3, 3),
    "model/gain": (),
    "model/one": (1,),
    "model/none": (0, 4),
    "ema-0.1/conv.weight": (7, 5, 3, 3),
    "ema-0.1/gain": (),
    "adam-exp_avg/conv.weight": (7, 5, 3, 3),
}
OTHER_TYPES = {"model/flag": torch.bool, "model/count": torch.int64, "model/half": torch.bfloat16}


def state_of(number: int) -> dict[str, Tensor]:
    """The whole tensors of state number `number`."""
    generator = torch.Generator().manual_seed(number)
    state = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return state | {n: torch.randint(0, 2, (3, 5), generator=generator).to(kind) for n, kind in OTHER_TYPES.items()}


def pieces_of(state: dict[str, Tensor], rank: int, size: int, seed: int = 0) -> dict[str, Piece]:
    """Copies of what a rank holds: runs cut anywhere, some of them empty; every third tensor whole on all ranks."""
    cuts, pieces = random.Random(seed), {}
    for n, (name, tensor) in enumerate(state.items()):
        flat, shape = tensor.flatten(), tuple(tensor.shape)
        ends = [0, *sorted(cuts.randint(0, len(flat)) for _ in range(size - 1)), len(flat)]
        if n % 3 == 0:
            pieces[name] = Piece(flat.clone(), 0, shape, rank, size)
        else:
            pieces[name] = Piece(flat[ends[rank] : ends[rank + 1]].clone(), ends[rank], shape)
    return pieces


def metadata_of(step: int) -> dict[str, object]:
    return {"identity": "a run", "step": step, "loss_scale": {"value": 0.1, "good": step}, "spec": {"widths": [1, 2]}}


def write(folder: Path, step: int, world: World = ALONE, seed: int = 0, keep: int = 2, keep_steps: int = 0) -> Path:
    """Save the state of the step's number and return the checkpoint's folder once it is there."""
    checkpointer = Checkpointer(folder, world, keep=keep, keep_steps=keep_steps)
    checkpointer.save(step, pieces_of(state_of(step), world.rank, world.size, seed), metadata_of(step))
    checkpointer.close()
    return path_of(folder, step)


def assert_holds(found: Checkpoint | Path, step: int) -> None:
    """The checkpoint is of that step, and all of it is as it was saved."""
    found = load(found) if isinstance(found, Path) else found
    assert found.step == step
    assert found.metadata == metadata_of(step)
    tensors, expected = found.part(""), state_of(step)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor), name


def assert_filled(found: Checkpoint, world: World, step: int, seed: int) -> None:
    """Pieces cut in another way are filled as they would be of the whole tensors."""
    expected = pieces_of(state_of(step), world.rank, world.size, seed)
    pieces = {name: piece.like(torch.zeros_like(piece.local)) for name, piece in expected.items()}
    found.read_into(pieces)
    for name, piece in expected.items():
        assert torch.equal(pieces[name].local, piece.local), name
