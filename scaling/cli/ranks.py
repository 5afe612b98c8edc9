"""A command that several devices share: the same one in a process a device."""

from __future__ import annotations

import os
import sys

import typer


def share(devices: int) -> None:
    """With more than one device, run this command in one process each and end with their exit code.

    In those processes, and with one device, it returns at once.
    """
    if devices > 1 and "RANK" not in os.environ:
        from slurm.ranks import run_ranks

        command = (sys.executable, "-P", "-m", "scaling", *sys.argv[1:])
        raise typer.Exit(run_ranks(command, devices, os.environ, lambda: False))
