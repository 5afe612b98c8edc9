"""Studies whose processes are killed in every phase, and which the same command then brings to the same end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.data.sources import pack_images, prepare
from scaling.study.expand import expand
from scaling.study.open import open_study
from tests.study.conftest import STUDY, Homes, merge
from tests.study.marked import LIMIT_SECONDS, Launched

METHODS = ("teacher", "scd", "sct")
# The stage that each phase is known by, and the methods whose runs may be in it.
PHASES = {
    **{method: ("training", (method,)) for method in METHODS},
    "sampling": ("sampling", METHODS),
    "scoring": ("scoring", METHODS),
}
VICTIMS = ("launcher", "a process", "all")


@dataclass(frozen=True)
class Kill:
    """One kill: the stage that the run was in, and who was killed."""

    stage: str
    victim: str


@dataclass
class Trials:
    """A study under one strategy, undisturbed once, and copies of it that are killed."""

    folder: Path
    launch: dict[str, Any]
    finished: Homes = field(init=False)
    seconds: dict[str, float] = field(init=False)  # of each stage, at most, undisturbed

    def __post_init__(self) -> None:
        self._numbers = count()
        data = {name: self.folder / name for name in ("source", "held_out")}
        images, labels = load_fashion("test")
        for (name, to), part in zip(data.items(), (slice(0, 300), slice(300, 600)), strict=True):
            pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), to, name, 10)
        launch = {"workers": 1, "log_every": 1, "checkpoint_seconds": 0.1, **self.launch}
        self._content = merge(STUDY, {"data": {n: str(to) for n, to in data.items()}, "launch": launch})
        path = self.write(self.folder / "undisturbed")
        launched = self.start(path)
        assert launched.wait() == 0, launched.said()
        self.seconds = {}
        for words in launched.marks().values():
            for (stage, begun), (_, ended) in pairwise(words):
                self.seconds[stage] = max(self.seconds.get(stage, 0.0), ended - begun)
        study = open_study(path)
        runs = expand(study.config, study.family, prepare(study.config.data, study.config.launch.folder).data)
        self.finished = Homes(study.folder, {run.name: run for run in runs})

    def write(self, folder: Path) -> Path:
        """The study's file in a folder that will hold its runs."""
        folder.mkdir(parents=True, exist_ok=True)
        content = merge(self._content, {"launch": {"folder": str(folder / "runs")}})
        (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return folder / "study.yaml"

    def start(self, path: Path, method: str | None = None) -> Launched:
        """Run the study in a file, or of its methods the teacher and one more."""
        methods = () if method is None else (f"methods=[{','.join(dict.fromkeys(('teacher', method)))}]",)
        return Launched(self.folder / "lives" / str(next(self._numbers)), str(path), *methods)

    def before(self, phase: str, method: str, folder: Path) -> Homes:
        """A copy of the finished study in `folder`, taken back to before that phase of the run of that method."""
        shutil.rmtree(folder / "runs", ignore_errors=True)
        homes = self.finished.copy(folder)
        home = homes.of(method)
        for gone in METHODS if phase == "teacher" else (method,) if phase in METHODS else ():
            shutil.rmtree(homes.of(gone))
        if phase not in METHODS:
            (home / "scores.json").unlink()
        for samples in (home / "samples").iterdir() if phase == "sampling" else ():
            samples.unlink()
        return homes

    def kills(self, phase: str, number: int, rng: random.Random, folder: Path) -> Iterator[Kill]:
        """Kill a study `number` times in one phase, at random moments; launched again after each, it goes on.

        A run that has left the phase is brought to its end, compared with the undisturbed one (AssertionError) and
        taken back. So is the one that was killed last.
        """
        path, (stage, methods) = self.write(folder), PHASES[phase]
        died, homes, method = 0, None, ""
        while died < number:
            if homes is None:
                method = methods[died % len(methods)]
                homes = self.before(phase, method, folder)
            found = self.kill(path, method, homes, stage, VICTIMS[died % len(VICTIMS)], rng)
            if found is not None and found.stage == stage:
                died += 1
                yield found
            if died == number or found is None or found.stage != stage:
                self.finish(path, homes, method)
                homes = None

    def kill(
        self, path: Path, method: str | None, homes: Homes, stage: str, victim: str, rng: random.Random
    ) -> Kill | None:
        """Launch the study and kill it at a random moment of that stage of its first run that comes to it."""
        launched = self.start(path, method)
        _until(launched, lambda: stage in launched.doing())
        if stage == "training":
            done = sum(logged(home) for home in homes.study.glob("*-*-*"))
            steps = rng.randrange(12)
            _until(launched, lambda: sum(logged(home) for home in homes.study.glob("*-*-*")) >= done + steps)
        else:
            time.sleep(rng.uniform(0, self.seconds[stage]))
        found = strike(launched, victim, rng)
        launched.wait()
        return found

    def finish(self, path: Path, homes: Homes, *methods: str) -> None:
        """Bring the study to its end: what it leaves is that of the undisturbed one, and nothing else."""
        launched = self.start(path, methods[0] if methods else None)
        assert launched.wait() == 0, launched.said()
        homes.assert_as(self.finished, *methods)
        assert [str(left) for left in homes.study.rglob(".*.partial")] == []


def logged(home: Path) -> int:
    """Lines of metrics.jsonl."""
    path = home / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _until(launched: Launched, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while launched.running() and not true():
        assert time.monotonic() < deadline, launched.said()
        time.sleep(0.01)


def strike(launched: Launched, victim: str, rng: random.Random) -> Kill | None:
    """Kill the launcher, one process of the run or all; None where the launcher had ended."""
    doing, workers = launched.doing(), launched.program.workers()
    stage = next((stage for stage in ("scoring", "sampling", "training") if stage in doing), "none")
    if not launched.running() or not workers:
        return None
    if victim != "a process":
        launched.program.send_signal(signal.SIGKILL)
    for pid in workers if victim == "all" else [rng.choice(workers)] if victim == "a process" else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return Kill(stage, victim)
