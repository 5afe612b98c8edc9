"""Whole tensors from the pieces that the ranks hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World


def gather(pieces: Mapping[str, Piece], world: World) -> dict[str, Tensor] | None:
    """The tensors that all ranks' pieces make up, in their shapes, on the CPU of rank 0; None on the others.

    Collective; `pieces` has the same names in the same order on all ranks. A device holds one whole tensor at a time.
    """
    whole: dict[str, Tensor] = {}
    for name, piece in pieces.items():
        tensor = _whole(piece, world)
        if world.leads:
            whole[name] = tensor.cpu()
    return whole if world.leads else None


@torch.no_grad()
def _whole(piece: Piece, world: World) -> Tensor:
    """Every element is one rank's own and zero on the others, so that the sum is exact."""
    flat = torch.zeros(piece.numel, dtype=piece.local.dtype, device=piece.local.device)
    own = piece.own()
    flat[own.offset : own.offset + len(own.local)] = own.local
    return world.total(flat).reshape(piece.shape)
