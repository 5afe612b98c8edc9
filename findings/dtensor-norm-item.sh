#!/usr/bin/env bash
# torch 2.13.0: of a DTensor that fully_shard has made, norm(), mean() and sum() are partial results, and .item() or
# float() of them returns the share of this rank, without an error. A guess would be the number of the whole tensor, as
# torch.nn.utils.get_total_norm gives for gradients. Logged norms of weights, per layer say, are then too small by about
# the root of the number of ranks, and differ between ranks: a decision that is made by them leaves ranks apart. Call
# .full_tensor() first, on all ranks.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, gloo, 2 ranks, Python 3.11, a weight of norm 4 whose rows are alike:
#   norm().item() 2.83 and 2.83; norm().full_tensor().item() 4.00; get_total_norm 4.00
# Fails where norm().item() is the norm of the whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import multiprocessing
import socket

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def norms(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.ones_(net.weight)
    fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    weight = net.weight.detach()
    total = torch.nn.utils.get_total_norm([weight])
    queue.put((rank, weight.norm().item(), weight.norm().full_tensor().item(), total.full_tensor().item()))
    dist.barrier()
    dist.destroy_process_group()


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
context = multiprocessing.get_context("fork")
queue = context.Queue()
ranks = [context.Process(target=norms, args=(rank, port, queue)) for rank in range(2)]
for each in ranks:
    each.start()
(_, one, full, total), (_, other, *_) = sorted(queue.get(timeout=600) for _ in ranks)
for each in ranks:
    each.join()
print(f"norm().item() {one:.2f} and {other:.2f}; norm().full_tensor().item() {full:.2f}; get_total_norm {total:.2f}")
assert full == total == 4
assert max(one, other) < 3, "item() is of the whole now"
PYTHON
