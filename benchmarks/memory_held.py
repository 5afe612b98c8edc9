"""What one process of a sharded run really holds, by adding up storages, after real training steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from models.family import network_config
from models.network import NetworkConfig
from models.trigflow import SIGMA_DATA
from scaling.config.sections import Ema, Launch, Precision, Strategy
from scaling.methods.batch import Batch
from scaling.methods.consistency import consistency_loss, data_velocity
from scaling.methods.tangent import Tangent
from scaling.methods.teacher import teacher_loss
from scaling.plan.memory.timeline import DTYPES
from scaling.training.ema import Averages
from scaling.training.sharding.parallel import build_engine
from scaling.training.sharding.world import joined
from scaling.training.start import First

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


def held(strategy: Strategy, network: NetworkConfig, student: bool, precision: Precision) -> Held:
    """Bytes of parameters, gradients, optimizer and two averages on this rank after two training steps.

    Needs the environment of a launcher.
    """
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as world:
        engine: Any = build_engine(First(network, 0), Launch(strategy=strategy), world)
        averages = Averages(engine.weights(), Ema(sigma_rel=SIGMA_REL), batch=2)
        gradients: list[int] = []
        if strategy in ("zero1", "zero2"):
            _observe(engine.zero, "reduce_ipg_grads", lambda: gradients.append(_gradients(engine)))
        for update in (1, 2):
            with engine.micro(last=True):
                with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
                    loss = objective(engine.net, draw(network), student)
                engine.backward(loss)
            gradients.append(_gradients(engine))
            engine.step(1e-3, 1.0)
            averages.update(engine.weights(), update)
        return {
            "parameters": storage_bytes(_weights(engine)),
            "gradients": max(gradients),
            "optimizer": storage_bytes(x for state in engine.optimizer.state.values() for x in state.values()),
            "ema": storage_bytes(piece.local for name in averages.names for piece in averages.pieces(name).values()),
        }


def _weights(engine: Any) -> list[Tensor]:
    """What the forward pass reads, and the master weights where those are others."""
    shards = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    return [*shards, *getattr(engine, "masters", [])]


def _observe(owner: Any, method: str, look: Callable[[], None]) -> None:
    """Have `look` called before and after every call of the method."""
    inner = getattr(owner, method)

    def observed(*args: Any, **kwargs: Any) -> Any:
        look()
        result = inner(*args, **kwargs)
        look()
        return result

    setattr(owner, method, observed)


def _gradients(engine: Any) -> int:
    """Gradients that the engine holds now: as autograd left them, in a bucket of ZeRO, and in its own part."""
    whole = [parameter.grad for parameter in engine.module.parameters()]
    zero = getattr(engine, "zero", None)
    if zero is None:
        return storage_bytes(whole)
    buckets = [bucket.buffer for bucket in zero.ipg_buckets.values()]
    flat = [x for buffer in buckets for x in (buffer if isinstance(buffer, list) else [buffer])]
    own = [getattr(zero, name, None) for name in ("grads_in_partition", "grad_partitions_flat_buffer")]
    return storage_bytes([*whole, *flat, *own])


def main() -> None:
    """Print what this rank holds as JSON; the arguments are those of `held`, the network as its fields in JSON."""
    strategy, network, student, precision = sys.argv[1:]
    config = network_config(json.loads(network), "network")
    print(json.dumps(held(strategy, config, student == "student", precision)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
