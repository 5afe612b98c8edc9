"""A run of a rehearsal: as `scaling.work.worker`, but killed once, and released at its end.

`python -m scaling.study.rehearsed HOME`. SIGKILL comes when its first checkpoint is there, and what starts it again
must find that the run continues. The release is made, verified and discarded where the run is, on its device.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from scaling.work import worker
from scaling.work.stopping import StopRequest

COMMAND = (sys.executable, "-P", "-m", "scaling.study.rehearsed")
KILLED = "killed-in-rehearsal"  # in the run's home, once that was done
RELEASED = "released-in-rehearsal.json"  # in the run's home
SCRATCH = "release-in-rehearsal"


class Killing(StopRequest):
    """Asked before each step whether to stop, it kills the first rank, which is to lose nothing but that step."""

    def __call__(self) -> bool:
        home = Path(sys.argv[1])
        if _leads() and not (home / KILLED).exists() and (home / "checkpoints" / "newest").exists():
            (home / KILLED).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def try_release(home: Path) -> None:
    """Make the release of a finished run, verify it and take it away again; what came of it stays in RELEASED."""
    from data_pipeline.errors import UserError
    from scaling.errors import explain
    from scaling.release.make import Options, release
    from scaling.release.verify import verify_release
    from scaling.run.home import write_model
    from scaling.run.schemas import ReleaseTrial
    from scaling.run.spec import load_run

    scratch = home / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        made = release(home, scratch, Options()).folder
        facts = verify_release(made, load_run(home).vae)
        picture = "without a picture" if facts["grid"] is None else "its picture drawn again"
        found = ReleaseTrial(works=True, found=f"made, {facts['files']} files verified, {picture}; discarded")
    except (UserError, OSError) as error:
        found = ReleaseTrial(works=False, found=explain(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_model(home / RELEASED, found)


def main() -> int:
    """Run the home folder named on the command line, release what came of it, and return the exit code."""
    code, home = worker.main(Killing, COMMAND), Path(sys.argv[1])
    if code == 0 and _leads() and not (home / RELEASED).exists():  # of ranks on this machine the first has done it
        try_release(home)
    return code


if __name__ == "__main__":
    worker.end(main())
