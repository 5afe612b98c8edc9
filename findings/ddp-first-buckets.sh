#!/usr/bin/env bash
# torch 2.13.0: DistributedDataParallel on three ranks or more sums the first gradient of a process in another order than
# all later ones, since it lays out its buckets anew after the first backward pass. A guess would be that a run that is
# continued from a checkpoint of all its state computes what it would have computed without the interruption. On two
# ranks it does: a sum of two has one order. Whoever wants the same bits computes the first gradient twice, as trigscale
# does, or uses fully_shard.
#
# Seen on 2026-11-30 with torch 2.13.0+cpu, gloo, Python 3.11:
#   2 ranks: 0 of 6 gradients differ after a restart; 4 ranks: 6 of 6
# Fails where four ranks give the same gradients, or two ranks others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import multiprocessing
import socket

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def gradient(ddp, rank):
    ddp.zero_grad()
    data = torch.randn(8, 16, generator=torch.Generator().manual_seed(rank))
    ddp(data).square().mean().backward()
    return [p.grad.clone() for p in ddp.parameters()]


def differ(rank, size, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8))
    going_on = DistributedDataParallel(net)
    gradient(going_on, rank)  # nothing is updated: the weights stay
    on = gradient(going_on, rank)
    restarted = gradient(DistributedDataParallel(net), rank)
    if rank == 0:
        queue.put((sum(not torch.equal(a, b) for a, b in zip(on, restarted)), len(on)))
    dist.barrier()
    dist.destroy_process_group()


def counted(size):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=differ, args=(rank, size, port, queue)) for rank in range(size)]
    for each in ranks:
        each.start()
    found = queue.get(timeout=600)
    for each in ranks:
        each.join()
    return found


two, four = counted(2), counted(4)
print(f"2 ranks: {two[0]} of {two[1]} gradients differ after a restart; 4 ranks: {four[0]} of {four[1]}")
assert two[0] == 0, "two ranks differ"
assert four[0] > 0, "four ranks give the same now"
PYTHON
