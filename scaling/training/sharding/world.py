"""The processes of one run: who they are, and the few things that they tell each other outside the strategies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from scaling.errors import ParallelError
from slurm.ranks import LISTENER

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")  # whole numbers; MASTER_ADDR is a name
TIMEOUT = timedelta(minutes=10)  # of one collective: a rank that is dead or stuck must end the others

T = TypeVar("T")

log = logging.getLogger(__name__)


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

    def gathered(self, own: T) -> list[T]:
        """What every rank passes, by rank, on every rank; plain values, between the processes of one run alone."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found

    def barrier(self) -> None:
        """Return once every rank has called."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device, environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """The world that the variables TOLD describe, left at the end.

    Without RANK, a world of one that joins nothing. ParallelError where they are no description of a world, or the
    other ranks cannot be met.
    """
    told = _told(environment)
    if device.type == "cuda":
        device = torch.device("cuda", told["LOCAL_RANK"] if told else 0)
        torch.cuda.set_device(device)
    if told is None:
        yield World(0, 1, device)
        return
    _meet(told["RANK"], told["WORLD_SIZE"], device, environment)
    try:
        yield World(told["RANK"], told["WORLD_SIZE"], device, told["LOCAL_WORLD_SIZE"])
    finally:
        dist.destroy_process_group()


def _told(environment: Mapping[str, str]) -> dict[str, int] | None:
    """The numbers of this rank and its world; None where RANK is not set."""
    if "RANK" not in environment:
        return None
    missing = [name for name in (*TOLD, "MASTER_ADDR") if not environment.get(name)]
    wrong = [name for name in TOLD if name not in missing and not environment[name].isdigit()]
    if missing or wrong:
        raise ParallelError(
            f"RANK={environment['RANK']} is set, as for one process of several, but {', '.join(missing or wrong)} "
            f"{'is not' if missing else 'is no whole number'}: unset RANK, or start the run by a launcher that sets all"
        )
    told = {name: int(environment[name]) for name in TOLD}
    if told["RANK"] >= told["WORLD_SIZE"]:
        raise ParallelError(f"RANK={told['RANK']} of WORLD_SIZE={told['WORLD_SIZE']}: ranks count from 0: unset both")
    return told


def _meet(rank: int, size: int, device: torch.device, environment: Mapping[str, str]) -> None:
    """Join the other ranks; who waits says for whom."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    place = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    log.info("rank %d of %d, as RANK and WORLD_SIZE say; meeting the others at %s", rank, size, place)
    try:
        store = _listened_store(rank, size, environment)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except dist.DistError as error:
        raise ParallelError(
            f"MASTER_ADDR, MASTER_PORT: rank {rank} of {size} did not meet the others at {place}: {error}: choose "
            "another port if another program has it, and unset RANK if there are no others"
        ) from error


def _listened_store(rank: int, size: int, environment: Mapping[str, str]) -> TCPStore | None:
    """The store on the socket that `slurm.ranks` opened for it; None elsewhere: torch opens one at MASTER_PORT."""
    if LISTENER not in environment:
        return None
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    listener = int(environment[LISTENER]) if rank == 0 else None
    return TCPStore(address, port, size, rank == 0, TIMEOUT, master_listen_fd=listener)
