"""The starts of a job on a cluster: a folder each, in which its ranks and its supervisor say how it ended.

    attempts/JOB/0001/begun.json  rank-0.json ...  ended.json

What is not in these files is not known: SLURM's own record of exit codes loses 128, and calls a step completed whose
rank failed. A rank that outlives its start writes into that start's folder, and disturbs no later one.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.private import private_folder, read_record, write_record
from slurm.restarts import AGAIN, DONE, Attempt, Progress


@dataclass(frozen=True)
class Start:
    """One start. begun, ended: what was noted when it began and ended, {} where nothing was."""

    number: int
    begun: dict[str, Any]
    ended: dict[str, Any]

    def attempt(self) -> Attempt:
        """What the rules of restarts need of it."""
        return Attempt(self.ended.get("code"), tuple(self.ended.get("progress", ())))

    @property
    def id(self) -> str:
        """SLURM's number of the job that it was a start of."""
        return str(self.begun.get("id", ""))


def starts(folder: Path) -> list[Start]:
    """All starts of a job, the oldest first."""
    found = []
    for path in sorted(folder.glob("[0-9]*")):
        begun, ended = path / "begun.json", path / "ended.json"
        found.append(Start(int(path.name), _content(begun), _content(ended)))
    return found


def begin(folder: Path, id: str, progress: Progress) -> Path:
    """The folder of a new start; one before it that ended without a word got as far as the job is now."""
    private_folder(folder)
    earlier = starts(folder)
    for start in earlier:
        if not start.ended:
            end(folder / f"{start.number:04d}", None, progress, "", "ended without a word")
    path = private_folder(folder / f"{len(earlier) + 1:04d}")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    note = {"id": id, "restarts": restarts, "host": socket.gethostname(), "time": time.time()}
    write_record(path / "begun.json", note)
    return path


def end(path: Path, code: int | None, progress: Progress, verdict: str, reason: str) -> None:
    """Note how a start ended."""
    note = {"code": code, "progress": list(progress), "verdict": verdict, "reason": reason, "time": time.time()}
    write_record(path / "ended.json", note)


def end_rank(path: Path, rank: int, code: int) -> None:
    """Note how one rank of a start ended; negative: the signal that killed it."""
    write_record(path / f"rank-{rank}.json", {"code": code, "host": socket.gethostname(), "time": time.time()})


def code_of(path: Path, tasks: int) -> int | None:
    """The one code of a start from those of its ranks: of the first that failed, else 75 if one was stopped, else 0.

    None where no rank failed and not every one has said how it ended.
    """
    ranks = [_content(path / f"rank-{rank}.json") for rank in range(tasks)]
    known = sorted((rank["time"], rank["code"]) for rank in ranks if rank)
    failed = [code for _, code in known if code not in (DONE, AGAIN)]
    if failed:
        return failed[0]
    if len(known) < tasks:
        return None
    return AGAIN if any(code == AGAIN for _, code in known) else DONE


def _content(path: Path) -> dict[str, Any]:
    return read_record(path) if path.exists() else {}
