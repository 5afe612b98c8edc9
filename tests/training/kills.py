"""Runs whose processes are killed, really and at random, and which are launched again until they are done."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.data.sources import pack_images
from slurm.ranks import DEATH_SECONDS, free_port, rank_variables
from tests.ranks import context
from tests.study.conftest import STUDY, Homes, merge, prepare_homes

LIMIT_SECONDS = 300.0
PHASES = ("starting", "between checkpoints", "writing a checkpoint", "after training")
# (strategy, ranks, the method that is trained under it)
RUNS = [
    ("ddp", 1, "sct"),
    ("ddp", 2, "scd"),
    ("fsdp2", 2, "scd"),
    ("hsdp", 2, "sct"),
    ("zero1", 2, "sct"),
    ("zero2", 2, "scd"),
    ("zero3", 2, "scd"),
]


@dataclass(frozen=True)
class Death:
    """One kill: the phase it came in, on which rank (None: all), the last step logged, and the step gone on from."""

    phase: str
    rank: int | None
    logged: int
    resumed: int


def run_rank(variables: dict[str, str], home: str) -> None:
    """One rank, from its start to its exit code; its words go to log.txt as a launcher would have it."""
    from scaling.work import worker

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    log = os.open(Path(home) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = ["worker", home]
    code = worker.main()
    sys.stdout.flush()
    os._exit(code)  # without the teardown of libraries: the next life is waiting


class World:
    """The living processes of one run."""

    def __init__(
        self,
        home: Path,
        size: int,
        main: Callable[[dict[str, str], str], None] = run_rank,
        told: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """main: what each process runs, given its variables, which hold those of `told` too, and the home."""
        port = free_port()
        variables = [rank_variables(n, size, port) if size > 1 else {} for n in range(size)]
        self.home = home
        self.ranks: list[ForkServerProcess] = [
            context().Process(target=main, args=({**each, **told}, str(home))) for each in variables
        ]
        for rank in self.ranks:
            rank.start()

    def alive(self) -> bool:
        """Whether no rank has ended."""
        return all(rank.exitcode is None for rank in self.ranks)

    def signal(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one rank, or to all."""
        for n, process in enumerate(self.ranks):
            if rank in (None, n) and process.exitcode is None:
                assert process.pid is not None
                os.kill(process.pid, number)

    def end(self, seconds: float) -> list[int]:
        """Kill the ranks that have not ended by themselves after `seconds`, and tell which: what a launcher does."""
        deadline = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
        left = [n for n, rank in enumerate(self.ranks) if rank.exitcode is None]
        self.signal(signal.SIGKILL)
        for rank in self.ranks:
            rank.join()
        return left

    def codes(self, seconds: float = LIMIT_SECONDS) -> list[int]:
        """The exit codes once all have ended; AssertionError, with all killed, if one still runs after `seconds`."""
        left = self.end(seconds)
        assert not left, f"ranks {left} still ran after {seconds} s: {(self.home / 'log.txt').read_text()[-2000:]}"
        return [rank.exitcode or 0 for rank in self.ranks]


def small_study(folder: Path, **changes: Any) -> Homes:
    """The tiny study on 300 real images in `folder`, its teacher trained by one process, its students not begun.

    Every step is logged; a checkpoint begins a fifth of a second after the one before was asked for.
    """
    images, labels = load_fashion("test")
    for name, part in (("train", slice(0, 300)), ("held-out", slice(300, 600))):
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), folder / name, name, 10)
    data = {"source": str(folder / "train"), "held_out": str(folder / "held-out")}
    launch: dict[str, Any] = {"folder": str(folder / "runs"), "log_every": 1, "checkpoint_seconds": 0.2}
    launch["shard_devices"] = 1  # of hsdp: a copy on each of two ranks
    (folder / "study.yaml").write_text(yaml.safe_dump(merge(STUDY, merge({"data": data, "launch": launch}, changes))))
    homes = prepare_homes(folder / "study.yaml")
    finish(homes.of("teacher"), 1)
    return homes


def configure(home: Path, **launch: Any) -> None:
    """Change how a run is launched, which is no part of what it is."""
    content = yaml.safe_load((home / "config.yaml").read_text())
    content["launch"].update(launch)
    (home / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def finish(home: Path, size: int) -> float:
    """Run it to its end without a disturbance; the seconds that it took."""
    start = time.monotonic()
    codes = World(home, size).codes()
    assert codes == [0] * size, (home / "log.txt").read_text()[-3000:]
    return time.monotonic() - start


def lines(home: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock and the memory say; a last line that a kill cut short is left out."""
    path = home / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "memory_bytes")} for line in found]


def newest_step(home: Path) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    return max((int(path.name[5:]) for path in (home / "checkpoints").glob("step-????????")), default=0)


def writing(home: Path) -> bool:
    """Whether a checkpoint is half-written now."""
    return any((home / "checkpoints").glob(".*.partial*"))


def last_logged(home: Path) -> int:
    """The last step in metrics.jsonl, 0 without one."""
    return max((line["step"] for line in lines(home)), default=0)


def phase_of(home: Path, launched: float) -> str:
    """What a run was doing when it was killed, as its files tell; launched: the time since the epoch, s."""
    starting, between, in_a_write, after = PHASES
    if (home / "samples").exists():
        return after
    if writing(home):
        return in_a_write
    metrics = home / "metrics.jsonl"
    return between if metrics.exists() and metrics.stat().st_mtime > launched else starting


def kill_until(home: Path, size: int, kills: int, seconds: float, choose: random.Random) -> Iterator[Death]:
    """Launch the run again and again and kill it, one rank or all, until it was killed `kills` times.

    Every other kill comes at a random moment of `seconds`, the others once a checkpoint is then seen half-written.
    A run that comes to its end is started anew with no file left.
    """
    died = 0
    while died < kills:
        launched, world = time.time(), World(home, size)
        _await_moment(world, choose.uniform(0, seconds), in_a_write=died % 2 == 1)
        victim = choose.choice([None, *range(size)])
        running = world.alive()
        world.signal(signal.SIGKILL, victim)
        phase, logged = phase_of(home, launched), last_logged(home)
        world.end(DEATH_SECONDS)
        if running:
            died += 1
            yield Death(phase, victim, logged, newest_step(home))
        if (home / "scores.json").exists():
            reset(home)


def _await_moment(world: World, seconds: float, in_a_write: bool) -> None:
    moment = time.monotonic() + seconds
    while world.alive() and time.monotonic() < moment:
        time.sleep(0.0005)
    while in_a_write and world.alive() and not writing(world.home):
        time.sleep(0.0005)


def reset(home: Path) -> None:
    """Take a run back to its beginning."""
    for path in home.iterdir():
        if path.name not in ("config.yaml", "log.txt"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def largest_difference(home: Path, reference: Path) -> float:
    """The largest relative difference of the losses of two runs that logged the same steps, each once."""
    ours, wanted = lines(home), lines(reference)
    assert [line["step"] for line in ours] == [line["step"] for line in wanted]
    return max(abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in zip(ours, wanted, strict=True))
