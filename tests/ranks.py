"""Functions run as the ranks of a gloo world, in processes forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from slurm.ranks import free_port, rank_variables

SECONDS = 240.0


@cache
def context() -> ForkServerContext:
    """Processes that start in milliseconds: torch and the training code are imported once, by the server."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preload"])
    return found


def run_ranks(size: int, target: Callable[..., Any], *args: Any) -> list[Any]:
    """target(*args) in `size` processes at once, their environment as a launcher sets it: what each returned, by rank.

    `target` is a function of a module. AssertionError with the traceback of the first rank that failed; no process is
    left behind.
    """
    port = free_port()
    pipes = [context().Pipe(duplex=False) for _ in range(size)]
    ranks: list[ForkServerProcess] = [
        context().Process(target=_rank, args=(send, rank_variables(n, size, port), target, args))
        for n, (_, send) in enumerate(pipes)
    ]
    for rank in ranks:
        rank.start()
    for _, send in pipes:
        send.close()
    try:
        return _results([receive for receive, _ in pipes])
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def _results(pipes: list[Connection]) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(pipes):
        ready = wait([pipe for n, pipe in enumerate(pipes) if n not in found], SECONDS)
        assert ready, f"no rank answered in {SECONDS} s; answered so far: {sorted(found)}"
        for pipe in ready:
            rank = next(n for n, other in enumerate(pipes) if other is pipe)
            assert isinstance(pipe, Connection)
            try:
                failed, found[rank] = pipe.recv()
            except EOFError:
                raise AssertionError(f"rank {rank} died without a word") from None
            assert not failed, f"rank {rank}: {found[rank]}"
    return [found[rank] for rank in range(len(pipes))]


def _rank(send: Connection, variables: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        send.send((False, target(*args)))
    except BaseException:
        send.send((True, traceback.format_exc()))
        raise
