"""When a job that has ended is started again: one set of rules, for the launcher of this machine and for SLURM."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

DONE, FAILED, USAGE, CRASHED, AGAIN = 0, 1, 2, 70, 75  # exit codes; the last two as sysexits.h has them
NO_ROOM = 73  # of a supervisor that could not write a word (EX_CANTCREAT)
FULL = (errno.ENOSPC, errno.EDQUOT)
FINAL = (FAILED, USAGE)  # what the job itself says another start will not mend
FRUITLESS = 3  # starts in a row that got no further, after which a job has failed
TAIL_BYTES = 65536

Progress = tuple[int, ...]


class Verdict(Enum):
    """What becomes of a job that has ended."""

    DONE = "done"
    AGAIN = "again"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One start of a job. code: what it exited with, negative for a signal, None where nothing was left to tell (its
    machine died, or it was killed as a whole). progress: how far the job was when it ended.
    """

    code: int | None
    progress: Progress


@dataclass(frozen=True)
class Decision:
    """The verdict and, unless the job is done, its reason in words."""

    verdict: Verdict
    reason: str = ""


def decide(attempts: Sequence[Attempt], restarts: int) -> Decision:
    """What becomes of a job after all its starts so far, the last of which has just ended.

    Code 0 is done; 1 and 2 are final. Stopped on request (75) or ended without a word, it is started again unless
    FRUITLESS starts in a row got no further. After a crash, any other code or a signal, it is started again at most
    `restarts` times, and not when the crash before came at the same place.
    """
    last = attempts[-1]
    if last.code == DONE:
        return Decision(Verdict.DONE)
    if last.code in FINAL:
        return Decision(Verdict.FAILED, f"it ended with code {last.code}")
    where = _where(last.progress)
    if last.code not in (AGAIN, None):
        crashes = [attempt for attempt in attempts if attempt.code not in (AGAIN, None)]
        how = f"signal {-last.code}" if last.code < 0 else f"code {last.code}"
        if len(crashes) > 1 and crashes[-2].progress == last.progress:
            return Decision(Verdict.FAILED, f"it crashed twice {where}, the last time with {how}")
        if len(crashes) > restarts:
            return Decision(Verdict.FAILED, f"it crashed {where} with {how}, crash {len(crashes)}")
    recent = attempts[-FRUITLESS:]
    if len(recent) == FRUITLESS and len({attempt.progress for attempt in recent}) == 1:
        return Decision(Verdict.FAILED, f"{FRUITLESS} starts in a row got no further than {where}")
    return Decision(Verdict.AGAIN, f"continues {where}")


def _where(progress: Progress) -> str:
    return f"at step {progress[0]}" if progress else "where it began"


def progress(paths: Sequence[Path]) -> Progress:
    """How far a job is: of a file the `step` in the last line of JSON that has one, of a folder how many entries."""
    return tuple(_entries(path) if path.is_dir() else last_step(path) for path in paths)


def _entries(folder: Path) -> int:
    return sum(not path.name.startswith(".") for path in folder.iterdir())


def last_step(path: Path) -> int:
    """The `step` of the last line of a file of JSON that has one; 0 where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and type(found.get("step")) is int:
            return found["step"]
    return 0
