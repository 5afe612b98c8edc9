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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.attempts import end_rank
from slurm.interrupts import STOPPING
from slurm.local import LAUNCHER_PID
from slurm.restarts import AGAIN, CRASHED

LOOK_SECONDS = 0.05
LISTEN_SECONDS = 120.0  # a command that handles no signal by then never will
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


class Task:
    """A command and the signals that it may have missed.

    Every process of a step gets each signal. The command is started with them ignored, since until its own handlers
    are there they would kill it; one that comes so early is kept, and sent once the command listens. Later ones are not
    sent again: they could meet a process that is ending, which no longer handles them.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.early: list[int] = []
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        self.listening = False
        for number in STOPPING:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if not self.listening:
            self.early.append(number)

    def wait(self) -> int:
        """The command's exit code, negative for a signal."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while self.process.poll() is None and not self.listening and time.monotonic() < deadline:
            self.listening = _catches(self.process.pid, signal.SIGTERM)
            time.sleep(LOOK_SECONDS)
        if self.early and self.listening and self.process.poll() is None:
            self.process.send_signal(self.early[0])
        return self.process.wait()


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for that signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
    return any(mask >> (number - 1) & 1 for mask in masks)


def main() -> int:
    """Run the command and return this task's exit code."""
    folder, command, number = Path(sys.argv[1]), sys.argv[2:], int(os.environ["SLURM_PROCID"])
    # A command in a container has another parent than this process.
    parent = {LAUNCHER_PID: str(os.getpid())} if command[0] == sys.executable else {}
    try:
        task = Task(command, {**os.environ, **rank_of(os.environ), **parent})
    except OSError as error:
        print(f"cannot start {command[0]!r}: {error}", file=sys.stderr)
        end_rank(folder, number, CRASHED)
        return 1
    code = task.wait()
    end_rank(folder, number, code)
    return 0 if code in (0, AGAIN) else 1


if __name__ == "__main__":
    sys.exit(main())
