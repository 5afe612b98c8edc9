"""The live view of a running study: bars on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data_pipeline.text import printable
from scaling.plan.costs import seconds_estimate
from scaling.run.home import RunHome
from scaling.run.metrics import read_metrics
from scaling.run.spec import PlannedRun
from scaling.study.open import Study
from slurm.local import JobEvent

REFRESH_SECONDS = 1.0
LINE_SECONDS = 30.0


class Display:
    """Follows the runs through their metrics.jsonl."""

    def __init__(self, console: Console, progress: Progress, study: Study, runs: Sequence[PlannedRun]) -> None:
        self._console, self._progress = console, progress
        self._homes = {run.name: RunHome(study.folder / run.name) for run in runs}
        self._specs = {run.name: run.spec for run in runs}
        self._costs = {run.name: seconds_estimate(run.spec) for run in runs}
        finished = [name for name, home in self._homes.items() if home.is_done()]
        self._finished_cost = done = sum(self._costs[name] for name in finished)
        self._total = progress.add_task("study", total=sum(self._costs.values()), note="")
        progress.update(self._total, completed=done)
        self._running: dict[str, TaskID] = {}
        self._drawn = self._printed = 0.0
        self._count = len(finished)

    def on_event(self, event: JobEvent) -> None:
        """Take in what the launcher reports."""
        if event.kind == "started" and event.job:
            steps = self._specs[event.job].recipe.steps
            self._running[event.job] = self._progress.add_task(event.job, total=steps, note="starting")
            if not self._console.is_terminal:
                self._console.print(f"started   {event.job}", highlight=False, markup=False, soft_wrap=True)
        elif event.kind == "again" and event.job:
            self._progress.remove_task(self._running.pop(event.job))
            self._console.print(
                f"again     {event.job} ({event.reason}): see {self._homes[event.job].log}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        elif event.kind == "finished" and event.job:
            self._finish(event)
        elif time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._drawn = time.monotonic()
            self._refresh()

    def _finish(self, event: JobEvent) -> None:
        assert event.job is not None, "a finished job has a name"
        assert event.state is not None, "and a state"
        if event.job in self._running:
            self._progress.remove_task(self._running.pop(event.job))
        self._count += 1
        self._finished_cost += self._costs[event.job]
        log = self._homes[event.job].log
        remedy = f": see {log}" if event.state.name == "FAILED" else ""
        place = f"{event.seconds:.0f} s, {self._count} of {len(self._costs)}"
        line = f"{event.state.name.lower():9} {event.job} ({place}){remedy}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        if event.state.name == "FAILED":
            self._console.print(_tail(log), highlight=False, markup=False, soft_wrap=True)

    def _refresh(self) -> None:
        running_cost = 0.0
        speak = not self._console.is_terminal and time.monotonic() - self._printed > LINE_SECONDS
        for name, task in self._running.items():
            lines = read_metrics(self._homes[name].metrics).lines
            if not lines:
                continue
            last, steps = lines[-1], self._specs[name].recipe.steps
            running_cost += self._costs[name] * min(1.0, last["step"] / steps)
            note = _note(last, steps)
            self._progress.update(task, completed=last["step"], note=note)
            if speak:
                self._printed = time.monotonic()
                self._console.print(f"          {name} {note}", highlight=False, markup=False, soft_wrap=True)
        note = f"{self._count} of {len(self._costs)} runs"
        self._progress.update(self._total, completed=self._finished_cost + running_cost, note=note)


def _note(last: dict[str, Any], steps: int) -> str:
    if last["step"] >= steps:
        return "sampling and evaluating"
    loss = "not finite" if last.get("loss") is None else f"{last['loss']:.4f}"
    speed = last["images_per_second"]
    left = (steps - last["step"]) * last.get("images", 0) / last["step"] / speed if speed else float("nan")
    return f"step {last['step']}/{steps}, {speed:.0f} images/s, loss {loss}, {left:.0f} s left"


def _tail(path: Path, lines: int = 5) -> str:
    if not path.exists():
        return ""
    text = printable(path.read_text(encoding="utf-8", errors="replace")).splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])


@contextmanager
def open_display(study: Study, runs: Sequence[PlannedRun]) -> Iterator[Display]:
    """A display for the duration of the block."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        yield Display(console, progress, study, runs)
