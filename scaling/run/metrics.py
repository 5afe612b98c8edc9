"""metrics.jsonl as it is read: one line of JSON every few steps, whatever became of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Metrics(NamedTuple):
    """lines: those that hold a step, in its order, the later one of a step that stands twice; damaged: how many do not.

    A line has step, images (seen so far), images_per_second, memory_bytes and what the step logged; a number that was
    not finite is None.
    """

    lines: list[dict[str, Any]]
    damaged: int


def read_metrics(path: Path) -> Metrics:
    """All lines of the file, none where there is no such file; a last line that a kill cut short is not counted."""
    if not path.is_file():
        return Metrics([], int(path.exists()))
    lines: dict[int, dict[str, Any]] = {}
    damaged = 0
    for text in path.read_bytes().split(b"\n")[:-1]:
        entry = _parse(text)
        if entry is None:
            damaged += 1
        else:
            lines[entry["step"]] = entry
    return Metrics([lines[step] for step in sorted(lines)], damaged)


def _parse(text: bytes) -> dict[str, Any] | None:
    """The line, None where it is not one."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or entry["step"] < 0:
        return None
    numbers = all(value is None or type(value) in (int, float) for value in entry.values())
    return entry if numbers else None
