"""FSDP2 and HSDP: weights, gradients and moments are spread over the ranks by rows, and gathered block by block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from models.primitives import MPLinear, weight_scale
from models.trigflow import TrigFlowNet
from models.unet import Block
from scaling.config.recipes import OptimizerName
from scaling.errors import ParallelError
from scaling.training.sharding.engine import AdamEngine
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World

Fill = Callable[[TrigFlowNet], None]  # fills what a rank holds of a network


class ShardedEngine(AdamEngine):
    """`fully_shard` of every block and of the rest; `shard_devices` consecutive ranks share one copy of the weights."""

    def __init__(
        self, module: TrigFlowNet, world: World, shard_devices: int, fill: Fill, kind: OptimizerName = "adam"
    ) -> None:
        """module: on the meta device. ParallelError where shard_devices does not divide the world."""
        super().__init__(module, world, kind)
        self.shard_devices = shard_devices
        _spread(module, world, shard_devices, fill)
        self.net = module
        self.prepare()

    def micro(self, last: bool) -> AbstractContextManager[None]:
        # Every pass reduces its gradients: kept whole until the last, they would undo what sharding saves.
        return nullcontext()

    def gradients(self) -> dict[str, Tensor]:
        """Rows of the averaged gradient; parameters of which this rank has no row are left out."""
        found = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        rows = {name: _local(gradient) for name, gradient in found.items()}
        return {name: tensor for name, tensor in rows.items() if tensor.numel()}

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        norms = torch._foreach_norm(list(self.gradients().values()))  # pyright: ignore[reportPrivateImportUsage]
        squares = torch.zeros((), device=self.world.device)
        if norms and self.world.rank < self.shard_devices:  # of equal copies, one counts
            squares = torch.stack(norms).square().sum()
        return self.world.total(squares).sqrt()

    def force_weight_norm(self) -> None:
        for module in self.module.modules():
            if isinstance(module, MPLinear):
                rows = _local(module.weight)  # whole rows, so that no other rank is asked
                rows.mul_(weight_scale(rows))

    def piece(self, tensor: Tensor) -> Piece:
        """Rows are cut as torch.chunk cuts them: parts of equal length, rounded up, of which the last may be empty."""
        shape, (replica, shard) = tuple(tensor.shape), divmod(self.world.rank, self.shard_devices)
        first = min(shard * -(-shape[0] // self.shard_devices), shape[0])
        width = tensor.numel() // shape[0]
        return Piece(_local(tensor).view(-1), first * width, shape, replica, self.world.size // self.shard_devices)


def freeze_sharded(net: TrigFlowNet, world: World, shard_devices: int, fill: Fill | None = None) -> TrigFlowNet:
    """A network that is not trained, spread over the ranks in the same way; all call it together, without gradients.

    fill: of a network on the meta device, None: it is whole.
    """
    _spread(net.requires_grad_(False), world, shard_devices, fill)
    return net


def _spread(net: TrigFlowNet, world: World, shard_devices: int, fill: Fill | None) -> None:
    """Leave each rank its rows: of the whole network, or filled once they are there."""
    if fill is None:
        net.to(world.device)
    _shard(net, _mesh(world, shard_devices))
    if fill is not None:
        net.to_empty(device=world.device)
        fill(net)


def _mesh(world: World, shard_devices: int) -> DeviceMesh:
    """All ranks in one dimension, or copies x shards."""
    if world.size % shard_devices:
        raise ParallelError(
            f"launch.shard_devices: {shard_devices} does not divide the {world.size} devices of the run: set a divisor"
        )
    if shard_devices == world.size:
        return init_device_mesh(world.device.type, (world.size,))
    shape = (world.size // shard_devices, shard_devices)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("copies", "shards"))


def _shard(net: TrigFlowNet, mesh: DeviceMesh) -> None:
    """Blocks are gathered one at a time; what is left, small, from its first use in forward to the end of backward."""
    for module in net.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)


def _local(tensor: Tensor) -> Tensor:
    """The rows of this rank, a view."""
    return cast(DTensor, tensor.detach()).to_local()
