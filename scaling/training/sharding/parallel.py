"""The strategies: how one network is trained on one or several devices, to the same numbers.

none or ddp: here; fsdp2, hsdp: `scaling.training.sharding.fsdp`; zero1, zero2, zero3: `scaling.training.sharding.zero`.
"""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.network import NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.recipes import OptimizerName
from scaling.config.sections import Launch
from scaling.errors import ParallelError
from scaling.training.origin import Origin
from scaling.training.sharding.engine import AdamEngine, Engine
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World
from scaling.training.sharding.zero import ZeroEngine, made_in_parts
from scaling.training.start import First


class ReplicatedEngine(AdamEngine):
    """The whole network on every rank: one process, or DistributedDataParallel."""

    def __init__(self, module: TrigFlowNet, world: World, kind: OptimizerName = "adam") -> None:
        super().__init__(module.to(world.device), world, kind)
        self.parallel = None
        # After its first backward pass DDP lays out anew what is reduced together. Of two summands the order is one.
        self.settles = world.size > 2
        if world.size > 1:
            with warnings.catch_warnings():
                # torch 2.13 has another name for broadcast_buffers, which 2.11 does not know.
                warnings.simplefilter("ignore", FutureWarning)
                # Gradients lie in the buffers that are reduced; buffers of the network never change.
                self.parallel = DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)
        self.net = self.parallel or module
        self.prepare()

    def micro(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last or self.parallel is None else self.parallel.no_sync()

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}

    def grad_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm(list(self.gradients().values()))

    def force_weight_norm(self) -> None:
        self.module.force_weight_norm()

    def piece(self, tensor: Tensor) -> Piece:
        return Piece(tensor.detach().view(-1), 0, tuple(tensor.shape), self.world.rank, self.world.size)


def check_strategy(launch: Launch, devices: int) -> None:
    """ParallelError unless the strategy can be had on so many devices with what is installed."""
    strategy = launch.strategy
    if devices == 1 and strategy not in ("auto", "ddp"):
        raise ParallelError(
            f"launch.strategy: {strategy} spreads a network over several devices, and there is 1: set it to auto, or "
            "launch.devices higher"
        )
    if strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise ParallelError(
            f"launch.strategy: {strategy} needs DeepSpeed: pip install 'trigscale[deepspeed]', or choose fsdp2"
        )


def build_engine(first: First, launch: Launch, world: World, kind: OptimizerName = "adam") -> Engine:
    """The network ready to be trained by the strategy of `launch`; ParallelError where that cannot be had.

    Where weights are sharded no rank ever holds more of them than its share and one tensor. The family's default
    strategy was asked when the run was planned: what is still "auto" here is ddp.
    """
    check_strategy(launch, world.size)
    strategy = launch.strategy
    if strategy in ("fsdp2", "hsdp"):
        from scaling.training.sharding.fsdp import ShardedEngine

        net = _prepared(_without_memory(first.config), launch)
        return ShardedEngine(net, world, _shard_devices(launch, world), first.fill, kind)
    if strategy == "zero3":
        net = made_in_parts(first.config, world)
        first.fill(net)
        return ZeroEngine(_prepared(net, launch), world, 3, kind)
    net = _prepared(first.whole(), launch)
    if strategy.startswith("zero"):
        return ZeroEngine(net, world, int(strategy[-1]), kind)
    return ReplicatedEngine(net, world, kind)


def _prepared(net: TrigFlowNet, launch: Launch) -> TrigFlowNet:
    """What the strategies wrap: compiled, and computing activations again, where that was asked for."""
    net.unet.activation_checkpointing = launch.activation_checkpointing
    if launch.compile:
        from scaling.training.compiled import compile_blocks

        compile_blocks(net)
    return net


def _without_memory(config: NetworkConfig) -> TrigFlowNet:
    with torch.device("meta"):
        return TrigFlowNet(config)


def freeze(origin: Origin, launch: Launch, world: World) -> TrigFlowNet:
    """A teacher, not to be trained, sharded where the strategy shards the student's weights."""
    if launch.strategy in ("fsdp2", "hsdp", "zero3"):
        from scaling.training.sharding.fsdp import freeze_sharded

        return freeze_sharded(_without_memory(origin.config), world, _shard_devices(launch, world), origin.fill)
    return origin.frozen().to(world.device)


def _shard_devices(launch: Launch, world: World) -> int:
    """How many ranks share one copy of the weights."""
    return (launch.shard_devices or world.local_size) if launch.strategy == "hsdp" else world.size
