"""Seconds of the stages of a study or of a run, over all launches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from scaling.run.home import read_model, sound, write_model
from scaling.run.schemas import Environment, Timings

C = TypeVar("C", Timings, Environment)


class Clock(Generic[C]):
    """Adds up the seconds of stages in a file, on top of those of earlier launches.

    content: what the file holds. Nothing is written before `start`, so that a launch that is refused leaves no trace.
    """

    def __init__(self, path: Path, schema: type[C]) -> None:
        """A damaged file of an earlier launch is set aside."""
        self._path, self._started = path, False
        self.content: C = sound(path, lambda: read_model(path, schema)) or schema()

    def start(self, content: C) -> None:
        """Write the content, and from now on every change of it."""
        self.content, self._started = content, True
        write_model(self._path, content)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block, also when it fails or is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds of a stage."""
        self.content = self.content.adding(name, seconds)
        if self._started:
            write_model(self._path, self.content)
