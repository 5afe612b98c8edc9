"""One task of a job's step: it becomes a rank, runs the command, and notes how that ended in a file of ours.

`python -m slurm.task FOLDER_OF_THE_START COMMAND...`. It ends with 0 where the command was stopped on request with its
state saved: the step is killed as soon as one task ends with anything else.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from slurm.attempts import end_rank
from slurm.interrupts import STOPPING
from slurm.local import LAUNCHER_PID
from slurm.restarts import AGAIN, CRASHED

ADDRESS, PORT = "TRIGSCALE_MASTER_ADDR", "TRIGSCALE_MASTER_PORT"


def rank_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What a rank finds in its environment, from SLURM's own variables; {} for the only task of a job.

    LOCAL_RANK is the position of its device among those that it sees: with --gpus-per-task=1 it sees one.
    """
    size = int(environment["SLURM_NTASKS"])
    if size == 1:
        return {}
    local = int(environment["SLURM_LOCALID"])
    visible = [each for each in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    numbers = {
        "RANK": int(environment["SLURM_PROCID"]),
        "WORLD_SIZE": size,
        "LOCAL_RANK": local % len(visible) if visible else local,
        "LOCAL_WORLD_SIZE": tasks_on(environment["SLURM_STEP_TASKS_PER_NODE"], int(environment["SLURM_NODEID"])),
    }
    place = {"MASTER_ADDR": environment[ADDRESS], "MASTER_PORT": environment[PORT]}
    return {**{name: str(value) for name, value in numbers.items()}, **place}


def tasks_on(words: str, node: int) -> int:
    """Tasks on one node, from SLURM's "2(x2),1"."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", words):
        counts += [int(count)] * int(times or 1)
    return counts[node]


def main() -> int:
    """Run the command and return this task's exit code."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    child: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        for process in child:
            process.send_signal(number)

    for number in STOPPING:  # every process of a step gets them; the command hears twice, which is once for it
        signal.signal(number, forward)
    rank = rank_of(os.environ)
    # A command in a container has another parent than this process.
    parent = {LAUNCHER_PID: str(os.getpid())} if command[0] == sys.executable else {}
    environment = {**os.environ, **rank, **parent}
    try:
        child.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
    except OSError as error:
        print(f"cannot start {command[0]!r}: {error}", file=sys.stderr)
        end_rank(folder, int(os.environ["SLURM_PROCID"]), CRASHED)
        return 1
    for number in asked[:1]:  # it came while the command was started
        child[0].send_signal(number)
    code = child[0].wait()
    end_rank(folder, int(os.environ["SLURM_PROCID"]), code)
    return 0 if code in (0, AGAIN) else 1


if __name__ == "__main__":
    sys.exit(main())
