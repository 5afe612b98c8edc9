"""What one process of a sharded run really holds, by adding up storages, after real training steps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from models.family import network_config
from models.trigflow import SIGMA_DATA, TrigFlowNet
from models.unet import Block, NetworkConfig
from scaling.plan.activations import DTYPES, Precision
from scaling.plan.memory import Strategy, zero_config
from scaling.training.ema import PowerEMA
from scaling.training.loop import ADAM
from scaling.training.objectives import Batch, Tangent, consistency_loss, data_velocity, teacher_loss

SIGMA_REL = (0.05, 0.10)

Held = dict[str, int]


def draw(network: NetworkConfig, dtype: torch.dtype = torch.float32, count: int = 2, device: str = "cpu") -> Batch:
    """Random samples of the network's shape."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, network.latent_channels, network.resolution, network.resolution)
    x0, z = ((SIGMA_DATA * torch.randn(shape, generator=generator)).to(device, dtype) for _ in range(2))
    t = (torch.rand(count, generator=generator) + 0.2).to(device, dtype)
    return Batch(x0, z, t, torch.zeros(count, dtype=torch.int64, device=device))


def objective(net: Any, batch: Batch, student: bool) -> Tensor:
    """The teacher's loss, or that of consistency training."""
    if student:
        return consistency_loss(net, batch, data_velocity(batch), 1.0, Tangent()).loss
    return teacher_loss(net, batch).loss


def storage_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the distinct storages behind the tensors, of a DTensor behind its local shard; None counts nothing."""
    present = [x.to_local() if isinstance(x, DTensor) else x for x in tensors if x is not None]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in present}
    return sum(storages.values())


def held(strategy: Strategy, network: NetworkConfig, student: bool, precision: Precision, address: str) -> Held:
    """Bytes of parameters, gradients, optimizer and two averages on this rank after two training steps.

    Needs the environment that torchrun sets; `address` is the rendezvous of the process group.
    """
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    net = TrigFlowNet(network)
    net.reset_parameters(torch.Generator().manual_seed(0))
    if strategy in ("ddp", "fsdp2"):
        found = _held_by_torch(strategy, net, student)
    else:
        found = _held_by_deepspeed(int(strategy[-1]), net, student, precision)
    dist.destroy_process_group()
    return found


def _held_by_torch(strategy: Strategy, net: TrigFlowNet, student: bool) -> Held:
    called: nn.Module = net
    if strategy == "ddp":
        called = DistributedDataParallel(net, gradient_as_bucket_view=True)
    else:
        for module in [module for module in net.modules() if isinstance(module, Block)]:
            fully_shard(module)
        fully_shard(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, **ADAM)
    ema = PowerEMA(net, SIGMA_REL)
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        objective(called, draw(net.config), student).backward()
        optimizer.step()
        ema.update(net, step + 1)
    return {
        "parameters": storage_bytes(net.parameters()),
        "gradients": storage_bytes(p.grad for p in net.parameters()),
        "optimizer": _moments(optimizer),
        "ema": storage_bytes(x for copies in ema.profiles.values() for x in copies),
    }


def _held_by_deepspeed(stage: int, net: TrigFlowNet, student: bool, precision: Precision) -> Held:
    import deepspeed

    # Its shared-memory operator would be compiled at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    batch = draw(net.config, DTYPES[precision])
    config = zero_config(net.config, stage, precision) | {"train_micro_batch_size_per_gpu": len(batch.t)}
    if stage == 3:
        deepspeed.utils.set_z3_leaf_modules(net, [Block])
    client = torch.optim.Adam(net.parameters(), lr=1e-3, **ADAM)
    started: tuple[Any, ...] = deepspeed.initialize(model=net, optimizer=client, config=config)
    engine, zero = started[:2]
    gradients: list[int] = []
    if stage < 3:
        _observe(zero, "reduce_ipg_grads", lambda: gradients.append(_zero_gradients(zero, net)))
    for _ in range(2):
        engine.backward(objective(engine, batch, student))
        gradients.append(_zero_gradients(zero, net))
        engine.step()
    shards: list[Tensor] = [getattr(p, "ds_tensor", p) for p in net.parameters()]
    weights = zero.bit16_groups_flat if stage < 3 else shards
    master = zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat
    return {
        "parameters": storage_bytes([*weights, *master]),
        "gradients": max(gradients),
        "optimizer": _moments(client),
    }


def _observe(owner: Any, method: str, look: Callable[[], None]) -> None:
    """Have `look` called before and after every call of the method."""
    inner = getattr(owner, method)

    def observed(*args: Any, **kwargs: Any) -> Any:
        look()
        result = inner(*args, **kwargs)
        look()
        return result

    setattr(owner, method, observed)


def _moments(optimizer: torch.optim.Optimizer) -> int:
    return storage_bytes(x for state in optimizer.state.values() for x in state.values())


def _zero_gradients(zero: Any, net: TrigFlowNet) -> int:
    """Gradients that the engine holds now: as autograd left them, in its bucket, and its own part."""
    buckets = [bucket.buffer for bucket in zero.ipg_buckets.values()]
    flat = [x for buffer in buckets for x in (buffer if isinstance(buffer, list) else [buffer])]
    own = [getattr(zero, name, None) for name in ("grads_in_partition", "grad_partitions_flat_buffer")]
    return storage_bytes([*(p.grad for p in net.parameters()), *flat, *own])


def main() -> None:
    """Print what this rank holds as JSON; the arguments are those of `held`, the network as its fields in JSON."""
    strategy, network, student, precision, address = sys.argv[1:]
    config = network_config(json.loads(network), "network")
    print(json.dumps(held(strategy, config, student == "student", precision, address)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
