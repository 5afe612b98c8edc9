"""The processes of one run: who they are, and the few things that they tell each other outside the strategies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # of one collective: a rank that is dead or stuck must end the others


@dataclass(frozen=True)
class World:
    """This process among those of its run: its number (rank), how many there are (size), and its device.

    local_size: how many of them share this machine.
    """

    rank: int
    size: int
    device: torch.device
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of the tensor over all ranks, the same bits on each; `values` itself is overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def least(self, values: Tensor) -> Tensor:
        """The minimum of the tensor over all ranks; `values` itself is overwritten."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return values

    def told(self, message: Any) -> Any:
        """What rank 0 passes, on every rank; plain values, between the processes of one run alone."""
        if self.size == 1:
            return message
        box = [message]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        """Return once every rank has called."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device, environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """The world that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe, left at the end.

    Without them, a world of one that joins nothing.
    """
    if device.type == "cuda":
        device = torch.device("cuda", int(environment.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" not in environment:
        yield World(0, 1, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size, device, int(environment["LOCAL_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()
