"""The program `trigscale`, which is `python -m scaling` too: asked to stop it ends in order, from this file on."""

from __future__ import annotations

import sys
from pathlib import Path

from slurm.interrupts import Stopped, ignore_from_now_on, throw_from_now_on


def main() -> None:
    """Entry point of the console script. Stopped by a signal it says so and exits with 128 + the signal's number."""
    throw_from_now_on()  # before anything is imported that takes time
    try:
        from scaling.cli.main import run

        code = run()
    except Stopped as stopped:
        ignore_from_now_on()
        print("stopped. The same command again continues.", file=sys.stderr)
        code = 128 + stopped.number
    ignore_from_now_on()
    sys.exit(code)


def _leave_the_current_folder() -> None:
    """Import nothing from where the command is given: -m puts that folder before all others.

    Where it is the checkout that this file lies in, that is what the program is imported from; it comes last then.
    """
    if not sys.flags.safe_path:
        here, checkout = Path(sys.path.pop(0)), Path(__file__).resolve().parents[1]
        if here.resolve() == checkout:
            sys.path.append(str(checkout))


if __name__ == "__main__":
    _leave_the_current_folder()
    main()
