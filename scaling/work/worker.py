"""One run: train, sample, evaluate; `python -m scaling.work.worker HOME`.

Launching again continues what is unfinished. A run on several devices is as many processes: this one starts them,
unless RANK says that it is one of them. Exit codes (`slurm.restarts`): 0 done, 1 training cannot go on, 2 bad input, 70
crashed ("software", EX_SOFTWARE), 75 stopped on request with its state saved ("again", EX_TEMPFAIL).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from scaling.work.stopping import EXIT_AGAIN, StopRequest
from slurm.interrupts import ignore_from_now_on
from slurm.ranks import run_ranks
from slurm.restarts import CRASHED
from slurm.restarts import FAILED as EXIT_FAILED
from slurm.restarts import USAGE as EXIT_USAGE

# A lock may be held by a run whose launcher is gone: how long after its launch.stop_seconds it is waited for.
LOCK_SECONDS = 30.0
COMMAND = (sys.executable, "-P", "-m", "scaling.work.worker")  # -P: nothing is imported from the current folder

UNBEGUN = "stopped before anything was begun; what earlier launches saved stays"

log = logging.getLogger(__name__)


def main(request: Callable[[], StopRequest] = StopRequest, command: Sequence[str] = COMMAND) -> int:
    """Run the home folder named on the command line and return the exit code. command: that of each rank."""
    stop = request()  # before anything is imported that takes time
    rank = os.environ.get("RANK")
    # Every rank says the same: the others speak up only when something is wrong.
    level, who = (logging.INFO, "") if rank in (None, "0") else (logging.ERROR, f"rank {rank}: ")
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {who}%(message)s")
    # The log's first line also takes its first block of the disk: where the disk fills up, there is room to say so.
    log.info("process %d on %s", os.getpid(), socket.gethostname())
    return _ended(Path(sys.argv[1]), rank, stop, command)


def _ended(home: Path, rank: str | None, stop: StopRequest, command: Sequence[str]) -> int:
    """The exit code once the run in `home`, or this rank's part of it, is done, stopped or failed."""
    from data_pipeline.errors import UserError
    from scaling.errors import Interrupted, TrainingError, explain

    try:
        return _run(home, rank, stop, command)
    except Interrupted as error:
        log.info("%s", error)
        return EXIT_AGAIN
    except (UserError, OSError) as error:
        log.error("%s", explain(error))
        return EXIT_USAGE
    except TrainingError as error:
        log.error("%s", error)
        return EXIT_FAILED
    except Exception:
        log.exception("crashed")
        return CRASHED


def _run(home: Path, rank: str | None, stop: StopRequest, command: Sequence[str]) -> int:
    from scaling.errors import Interrupted

    if stop():
        raise Interrupted(UNBEGUN)
    from data_pipeline.files import clear_partials
    from scaling.run.locks import locked
    from scaling.run.spec import load_run
    from scaling.work.stages import run

    if stop():
        raise Interrupted(UNBEGUN)
    launch = load_run(home).launch
    if rank is None and launch.devices > 1:
        return run_ranks((*command, str(home)), launch.devices, os.environ, stop)
    with locked(home / ".lock", launch.stop_seconds + LOCK_SECONDS) if rank in (None, "0") else nullcontext():
        if rank in (None, "0"):
            clear_partials(home, home / "samples", home / "grids", home / "profile")
        run(home, stop)
    log.info("done")
    return 0


def end(code: int) -> NoReturn:
    """End the process with that code, whatever signal comes: an ending interpreter has no handlers any more."""
    ignore_from_now_on()
    sys.exit(code)


if __name__ == "__main__":
    end(main())
