"""What is looked at on a job's first node before its step starts: what no other start would mend without a change."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SKEW_SECONDS = 120.0  # munge refuses what is 300 s off; our own times of starts and reports would mislead before that
START_SECONDS = 600.0  # of a container whose image is read for the first time


def problem(container: Sequence[str], python: str, fresh: Path) -> str:
    """What is wrong and what to change, "" where nothing is. fresh: a file that was written just now."""
    return clock_problem(fresh) or container_problem(container, python)


def clock_problem(fresh: Path) -> str:
    """Whether this node's clock is another than that of the file system, which all nodes share."""
    ahead = time.time() - fresh.stat().st_mtime
    if abs(ahead) <= SKEW_SECONDS:
        return ""
    where = "ahead of" if ahead > 0 else "behind"
    return (
        f"the clock of node {socket.gethostname()} is {abs(ahead):.0f} s {where} that of the study's file system: have "
        "it set (NTP), or leave the node out by `sbatch: {exclude: NODE}` of the cluster file"
    )


def container_problem(container: Sequence[str], python: str) -> str:
    """Whether the words before the program start a Python that finds this program's files."""
    if not container:
        return ""
    node, words = socket.gethostname(), shlex.join(container)
    if shutil.which(container[0]) is None:
        return (
            f"container: node {node} has no program {container[0]}: write its path in `container` of the cluster file, "
            "or load its module by `modules`"
        )
    try:
        tried = subprocess.run(
            [*container, python, "-c", "import slurm"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"container: `{words}` started no {python} in {START_SECONDS:.0f} s on node {node}: is the image whole?"
    if tried.returncode == 0:
        return ""
    said = [line.strip() for line in tried.stderr.splitlines() if line.strip()] or ["no word"]
    return (
        f"container: `{words} {python}` ended with code {tried.returncode} on node {node} ({said[-1]}): mend "
        "`container` or `container_python` of the cluster file; trigscale's folder and the study's must be bound in"
    )
