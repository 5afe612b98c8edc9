"""Attention inside a layer that FSDP2 shards over two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROCESS = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.kernels.test_derivatives import Layer, attention, plain

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
x = torch.linspace(-2, 2, 4 * 5 * 8, dtype=torch.float64).cos().reshape(4, 5, 8)

whole = Layer()
whole(x, plain).square().sum().backward()

sharded = Layer()
fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
sharded(x[2 * rank : 2 * rank + 2], attention).square().sum().backward()
for ours, wanted in zip(sharded.parameters(), whole.parameters(), strict=True):
    assert ours.to_local().numel() < wanted.numel()
    # FSDP2 averages over the ranks, the loss is a sum.
    torch.testing.assert_close(2 * ours.grad.full_tensor(), wanted.grad, rtol=1e-10, atol=1e-10)

parts, directions = (x[:2],), (x[:2].sin(),)
ours = torch.func.jvp(lambda y: sharded(y, attention), parts, directions)
wanted = torch.func.jvp(lambda y: whole(y, plain), parts, directions)
torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)
dist.destroy_process_group()
"""


def test_gradients_and_forward_mode_under_fsdp2(tmp_path: Path) -> None:
    """Two gloo processes against one: gradients of the sharded layer, and func.jvp through it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
