"""A run of a rehearsal: as `scaling.work.worker`, but killed once, by SIGKILL, when its first checkpoint is there.

`python -m scaling.work.rehearsed HOME`. What starts it again must find that the run continues.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from scaling.work import worker
from scaling.work.stopping import StopRequest

COMMAND = (sys.executable, "-P", "-m", "scaling.work.rehearsed")
KILLED = "killed-in-rehearsal"  # in the run's home, once that was done


class Killing(StopRequest):
    """Asked before each step whether to stop, it kills the first rank, which is to lose nothing but that step."""

    def __call__(self) -> bool:
        home = Path(sys.argv[1])
        leads = os.environ.get("RANK", "0") == "0"
        if leads and not (home / KILLED).exists() and (home / "checkpoints" / "newest").exists():
            (home / KILLED).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def main() -> int:
    """Run the home folder named on the command line and return the exit code."""
    return worker.main(Killing, COMMAND)


if __name__ == "__main__":
    worker.end(main())
