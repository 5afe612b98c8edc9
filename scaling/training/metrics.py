"""metrics.jsonl: one line of JSON every few steps, continued after a restart without a gap or a repetition."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.files import naming, write_text_atomic


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of the file, [] where there is none; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class MetricsLog:
    """Appends lines to metrics.jsonl: step, images seen, what the step logged, images/s since the line before."""

    def __init__(self, path: Path, resume_step: int, batch: int) -> None:
        """Open the file to continue after `resume_step`: lines of later steps, which will be written again, are cut."""
        kept = [entry for entry in read_metrics(path) if entry["step"] <= resume_step]
        write_text_atomic(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        self._batch = batch
        self._last = (resume_step, time.monotonic())

    def write(self, step: int, entry: Mapping[str, float]) -> None:
        """Append the line of one step; a number that is not finite becomes null (JSON has no NaN)."""
        now = time.monotonic()
        speed = (step - self._last[0]) * self._batch / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        finite = {name: value if math.isfinite(value) else None for name, value in entry.items()}
        line = {"step": step, "images": step * self._batch, **finite, "images_per_second": round(speed, 1)}
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Flush to the device; done before a checkpoint, so that no line before it can be lost."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
