"""What kills, signals and a full disk do to a whole study, and whether the same command then ends it bit for bit.

    PYTHONPATH=. python benchmarks/kills_study.py [--kills 15] [--rank-kills 3] [--seed 0]

kill -9 of the launcher, of one process or of all, at random moments of each phase: by one process a run, and by two
ranks under ddp, fsdp2 and zero2 (`--rank-kills` in each phase). SIGINT and SIGTERM to the command itself, started as a
user does, from its first millisecond on. A file system of its own, filled to its end as a run comes to each stage.
Every study is brought to its end by the command that began it: scores, samples, metrics and weights must be those of a
study that nobody disturbed, no process may stay, nor anything half-written. Writes benchmarks/results/kills-study.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from scaling.study.machine import machine
from tests.study.conftest import Homes
from tests.study.kills import PHASES, VICTIMS, Trials

RESULT = Path(__file__).parent / "results" / "kills-study.md"
STRATEGIES = ((1, "auto"), (2, "ddp"), (2, "fsdp2"), (2, "zero2"))
MILLISECONDS = (0, 5, 15, 30, 60, 120, 250, 500, 1000, 2000, 4000, 8000)
KILLS_HEAD = (
    "strategy",
    "processes a run",
    "phase",
    "kills",
    *(f"of {victim}" for victim in VICTIMS),
    "ends as undisturbed",
)
SIGNALS_HEAD = ("signal", "after ms", "exit code", "says", "processes left", "its end")
DISK_HEAD = ("the disk is full when a run begins", "exit code", "says", "its end")


Row = tuple[object, ...]


def kill_rows(trials: Trials, devices: int, strategy: str, kills: int, rng: random.Random) -> Iterator[Row]:
    """A row of the table for each phase."""
    for phase in PHASES:
        folder = trials.folder / f"killed-{phase}"
        struck = Counter(kill.victim for kill in trials.kills(phase, kills, rng, folder))
        shutil.rmtree(folder)
        yield strategy, devices, phase, struck.total(), *(struck[victim] for victim in VICTIMS), "equal"


def signal_rows(trials: Trials) -> Iterator[Row]:
    """A row for each signal and moment: the real command, and what it leaves for the next."""
    for number in (signal.SIGINT, signal.SIGTERM):
        folder = trials.folder / number.name
        path, homes = trials.write(folder), Homes(folder / "runs" / "tiny", trials.finished.runs)
        rows = []
        for milliseconds in MILLISECONDS:
            command = [sys.executable, "-m", "scaling", "study", "run", str(path)]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
            time.sleep(milliseconds / 1000)
            process.send_signal(number)
            said = [line for line in process.communicate()[1].splitlines() if not line.startswith("These images")]
            left = subprocess.run(["pgrep", "-fc", str(folder)], capture_output=True, text=True).stdout.strip()
            last = "; ".join(said[-2:]) if process.returncode > 0 else f"nothing ({len(said)} lines): it was Python"
            rows.append([number.name, milliseconds, process.returncode, last.replace(str(folder), "..."), left])
        trials.finish(path, homes)
        yield from ((*row, "equal") for row in rows)


def disk_rows(trials: Trials) -> Iterator[Row]:
    """A row for each stage."""
    for stage in ("training", "sampling", "scoring"):
        with small_disk(trials.folder / "disk") as folder:
            path, homes = trials.write(folder), Homes(folder / "runs" / "tiny", trials.finished.runs)
            launched = trials.start(path)
            while launched.running() and stage not in launched.doing():
                time.sleep(0.001)
            fill(folder / "ballast")
            code, said = launched.wait(), launched.said()
            (folder / "ballast").unlink()
            told = next((line for line in said.splitlines() if "No space left" in line), "nothing about the disk")
            trials.finish(path, homes)
            yield stage, code, told.rpartition(" ERROR ")[2].replace(str(folder), "..."), "equal"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 MB; needs the right to mount."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64000000", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill(ballast: Path) -> None:
    """Take all the room that is left, to the last byte."""
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass


def line(cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"  # pyright: ignore[reportArgumentType]


def main() -> None:
    """Kill, print and write the tables; an AssertionError says which study came out different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=15, help="kills in each phase, one process a run")
    parser.add_argument("--rank-kills", type=int, default=3, help="kills in each phase, two ranks, each strategy")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the victims")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    here, date = machine(torch.device("cpu")), datetime.now(UTC).date()
    text: list[str] = []

    def write(*lines: str) -> None:
        text.extend(lines)
        print("\n".join(lines), flush=True)
        RESULT.write_text("\n".join(text) + "\n")

    write(f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {date}; nano xs, {sys.argv[1:]}")
    folder = Path(tempfile.mkdtemp(prefix="kills-study-"))
    try:
        for n, (devices, strategy) in enumerate(STRATEGIES):
            trials = Trials(folder / f"{strategy}-{devices}", {"devices": devices, "strategy": strategy})
            if not n:
                for title, head, rows in (
                    ("Signals to the command", SIGNALS_HEAD, signal_rows(trials)),
                    ("A full disk", DISK_HEAD, disk_rows(trials)),
                ):
                    write("", f"## {title}", "", line(head), line("---" for _ in head))
                    for row in rows:
                        write(line(row))
                write("", "## Kills", "", line(KILLS_HEAD), line("---" for _ in KILLS_HEAD))
            kills = options.rank_kills if n else options.kills
            for row in kill_rows(trials, devices, strategy, kills, random.Random(f"{strategy} {options.seed}")):
                write(line(row))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
