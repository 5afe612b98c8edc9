"""Attention inside a layer that FSDP2 shards over two processes."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from scaling.training.sharding.world import joined
from tests.kernels.test_derivatives import Layer, attention, plain
from tests.ranks import run_ranks


def sharded_and_whole() -> None:
    """Gradients of the sharded layer and func.jvp through it, on one rank, against the whole layer."""
    with joined(torch.device("cpu")) as world:
        x = torch.linspace(-2, 2, 4 * 5 * 8, dtype=torch.float64).cos().reshape(4, 5, 8)
        whole, sharded = Layer(), Layer()
        whole(x, plain).square().sum().backward()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (world.size,)))
        sharded(x[2 * world.rank : 2 * world.rank + 2], attention).square().sum().backward()
        pairs: Any = zip(sharded.parameters(), whole.parameters(), strict=True)
        for ours, wanted in pairs:
            assert ours.to_local().numel() < wanted.numel()
            # FSDP2 averages over the ranks, the loss is a sum.
            torch.testing.assert_close(2 * ours.grad.full_tensor(), wanted.grad, rtol=1e-10, atol=1e-10)
        parts, directions = (x[:2],), (x[:2].sin(),)
        ours = torch.func.jvp(lambda y: sharded(y, attention), parts, directions)
        wanted = torch.func.jvp(lambda y: whole(y, plain), parts, directions)
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


def test_gradients_and_forward_mode_under_fsdp2() -> None:
    """Two gloo processes against one."""
    run_ranks(2, sharded_and_whole)
