"""What one rank holds of a network that is spread over several: of each flattened tensor a run of elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class LocalRun:
    """Elements [first, first + local.numel()) of a flattened tensor; local: 1-D, a view of what holds them."""

    local: Tensor
    first: int

    def take(self, whole: Tensor) -> None:
        """Copy what belongs here of the whole tensor."""
        self.local.copy_(whole.flatten()[self.first : self.first + len(self.local)])


def local_runs(net: nn.Module) -> dict[str, LocalRun]:
    """What this rank holds of every parameter and buffer, by name.

    Of parameters that FSDP2 or HSDP spread by rows, that ZeRO-3 cut into equal parts, or that are whole. ValueError for
    one that is spread otherwise, or still on the meta device.
    """
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: _run(name, tensor) for name, tensor in tensors.items()}


def _run(name: str, tensor: Tensor) -> LocalRun:
    if hasattr(tensor, "ds_tensor"):
        return _partition(tensor)
    from torch.distributed.tensor import DTensor

    run = _rows(name, tensor) if isinstance(tensor, DTensor) else LocalRun(tensor.detach().view(-1), 0)
    if run.local.is_meta:
        raise ValueError(f"{name}: is on the meta device: call to_empty(device=...) before")
    return run


def _rows(name: str, tensor: Tensor) -> LocalRun:
    """Rows are cut as torch.chunk cuts them: parts of equal length, rounded up, of which the last may be empty."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert isinstance(tensor, DTensor), "asked for of these alone"
    rows, mesh = tensor.shape[0], tensor.device_mesh
    sharded = [n for n, placement in enumerate(tensor.placements) if placement == Shard(0)]
    others = [p for p in tensor.placements if p not in (Shard(0), Replicate())]
    if others or len(sharded) > 1:
        raise ValueError(f"{name}: is placed as {tensor.placements}: only rows over one dimension of a mesh are known")
    local = cast(DTensor, tensor.detach()).to_local().view(-1)
    if not sharded:
        return LocalRun(local, 0)
    part = -(-rows // mesh.size(sharded[0]))
    first = min(mesh.get_local_rank(sharded[0]) * part, rows)
    return LocalRun(local, first * math.prod(tensor.shape[1:]))


def _partition(tensor: Tensor) -> LocalRun:
    """Equal parts of the flattened tensor, the last one padded."""
    part, whole = tensor.ds_tensor, tensor.ds_numel  # pyright: ignore[reportAttributeAccessIssue]
    rank = dist.get_rank(tensor.ds_process_group)  # pyright: ignore[reportAttributeAccessIssue]
    first = min(rank * part.numel(), whole)
    return LocalRun(part.data.view(-1)[: whole - first], first)
