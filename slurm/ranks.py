"""The processes of one job on one machine: started together, told to stop together, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from slurm.local import LAUNCHER_PID
from slurm.restarts import CRASHED

LISTENER = "TRIGSCALE_LISTENER"
# The names of what torchrun and its like tell the processes that they start, as a regular expression.
TOLD_TO_RANKS = "(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
POLL_SECONDS = 0.05
# What a rank may take to end by itself once another is dead: it may be about to say why in the log.
DEATH_SECONDS = 5.0


def run_ranks(
    command: Sequence[str], count: int, environment: Mapping[str, str], should_stop: Callable[[], bool]
) -> int:
    """Run `count` processes of one command as the ranks of a world on this machine, and return one exit code.

    They find RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and the launcher's process number
    in their environment, and write to this process's stdout and stderr. TRIGSCALE_LISTENER is the descriptor on which
    rank 0 finds MASTER_PORT listened to already, so that no other program can take it; it is -1 for the others.

    Once `should_stop` says so they get SIGTERM, once. When one ends with another code than 0, the others have
    DEATH_SECONDS to end before they are killed: they can do nothing without it. The code is 0 if all ended with 0, else
    that of the rank that ended first with another one (CRASHED where a signal killed it). torchrun would not do: it
    kills its processes 30 s after SIGTERM and drops SIGUSR2.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        ranks = [
            _start(command, rank_variables(rank, count, port), environment, None if rank else listener.fileno())
            for rank in range(count)
        ]
    try:
        return _watch(ranks, should_stop)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now; another program may take it next."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_variables(rank: int, count: int, port: int) -> dict[str, str]:
    """What one rank of a world on this machine finds in its environment."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {**{key: str(value) for key, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}


def _start(
    command: Sequence[str], variables: Mapping[str, str], environment: Mapping[str, str], listener: int | None
) -> subprocess.Popen[bytes]:
    own = {LAUNCHER_PID: str(os.getpid()), LISTENER: str(-1 if listener is None else listener)}
    passed = () if listener is None else (listener,)
    merged = {**environment, **variables, **own}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=merged, pass_fds=passed)


def _watch(ranks: Sequence[subprocess.Popen[bytes]], should_stop: Callable[[], bool]) -> int:
    """Return once all have ended or one has failed and the others had their time."""
    told, deadline, code = False, float("inf"), 0
    while (waiting := [rank for rank in ranks if rank.poll() is None]) and time.monotonic() < deadline:
        if should_stop() and not told:
            told = True
            for rank in waiting:
                rank.send_signal(signal.SIGTERM)
        code = code or _first_failure(ranks)
        if code and deadline == float("inf"):
            deadline = time.monotonic() + DEATH_SECONDS
        time.sleep(POLL_SECONDS)
    return code or _first_failure(ranks)


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code of a rank that ended with another one than 0, CRASHED for one that a signal killed; 0: none did."""
    codes = [code for code in (rank.returncode for rank in ranks) if code]
    return max(codes[0], 0) or CRASHED if codes else 0
