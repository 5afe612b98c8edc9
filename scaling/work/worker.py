"""One run: train, sample, evaluate; `python -m scaling.work.worker HOME`.

Launching again continues what is unfinished. A run on several devices is as many processes: this one starts them,
unless RANK says that it is one of them. Exit codes: 0 done, 1 failed, 2 bad input, 75 stopped on request with its state
saved ("again", EX_TEMPFAIL).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

from data_pipeline.errors import UserError
from scaling.errors import Interrupted, TrainingError, explain
from scaling.run.locks import locked
from scaling.run.spec import load_run
from scaling.work.stages import run
from scaling.work.stopping import EXIT_AGAIN, StopRequest
from slurm.ranks import run_ranks

EXIT_FAILED, EXIT_USAGE = 1, 2
LOCK_SECONDS = 60.0

log = logging.getLogger(__name__)


def main() -> int:
    """Run the home folder named on the command line and return the exit code."""
    rank = os.environ.get("RANK")
    # Every rank says the same: the others speak up only when something is wrong.
    level, who = (logging.INFO, "") if rank in (None, "0") else (logging.ERROR, f"rank {rank}: ")
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {who}%(message)s")
    home, stop = Path(sys.argv[1]), StopRequest()
    # The log's first line also takes its first block of the disk: where the disk fills up, there is room to say so.
    log.info("process %d on %s", os.getpid(), socket.gethostname())
    try:
        devices = load_run(home).launch.devices
        if rank is None and devices > 1:
            return run_ranks((sys.executable, "-m", "scaling.work.worker", str(home)), devices, os.environ, stop)
        with locked(home / ".lock", LOCK_SECONDS) if rank in (None, "0") else nullcontext():
            run(home, stop)
    except Interrupted as error:
        log.info("%s", error)
        return EXIT_AGAIN
    except (UserError, OSError) as error:
        log.error("%s", explain(error))
        return EXIT_USAGE
    except TrainingError as error:
        log.error("%s", error)
        return EXIT_FAILED
    log.info("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
