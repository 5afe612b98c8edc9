"""Seconds of each stage of a study."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.files import write_json_atomic


class Stages:
    """Seconds of each stage of a study over all launches, kept in environment.json with what was run.

    Nothing is written before `describe`, so that bad data leave no trace.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "environment.json"
        self._content: dict[str, Any] = {"stages": {}, "wall_seconds": 0.0}
        if self._path.exists():
            self._content = json.loads(self._path.read_text(encoding="utf-8"))

    def describe(self, facts: dict[str, Any]) -> None:
        """Add facts about this launch; the start of the first launch is kept."""
        started = self._content.get("started", facts["started"])
        self._content.update({**facts, "started": started})
        write_json_atomic(self._path, self._content)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds of a stage."""
        stages = self._content["stages"]
        stages[name] = round(stages.get(name, 0.0) + seconds, 3)
        self._content["wall_seconds"] = round(self._content["wall_seconds"] + seconds, 3)
        if "started" in self._content:
            write_json_atomic(self._path, self._content)
