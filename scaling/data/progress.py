"""How far long work on data is: a bar on a terminal, a line now and then elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_SECONDS = 30.0


class Progress:
    """Counts up to `total`, and says the rate and the time that is left."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._begun = self._printed = time.monotonic()
        self._console = Console(stderr=True)
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._bar = self._bars.add_task("", total=total)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        self._bars.update(self._bar, completed=self._done, description=self._line(now))
        last = self._done == self._total and count
        if not self._console.is_terminal and (now - self._printed > LINE_SECONDS or last):
            self._printed = now
            self._console.print(self._line(now), highlight=False, markup=False, soft_wrap=True)

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._begun, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        counted = f"{self._done:,} of {self._total:,} {self._unit}, {rate:.3g} {self._unit}/s"
        return counted if self._done == self._total else f"{counted}, {left:.0f} s left"
