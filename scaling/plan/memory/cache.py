"""Timelines that were counted before, in one JSON file of the user's cache folder.

The file belongs to one torch, one Python and one state of our own code: another of them has another file. What cannot
be read, or is not as it was written, is counted again; where nothing can be written, nothing is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipeline.files import write_json_atomic

# Live bytes at the moments that can be the peak of a training step, [moments, 6]: factors of width^0, ^1 and ^2, then
# of these times the batch.
Timeline = list[list[int]]

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("kernels", "models", "scaling")  # whose code decides what a step holds, or how it is counted
KEPT = 4  # files of other versions that stay


@dataclass
class Cache:
    """The timelines in one file, by a text that says what was counted; without a file none is kept."""

    path: Path | None
    timelines: dict[str, Timeline] = field(default_factory=dict)

    def get(self, key: str) -> Timeline | None:
        """The timeline of that key, None where it is not known."""
        return self.timelines.get(key)

    def add(self, key: str, timeline: Timeline) -> None:
        """Remember a timeline, beside those that another process has written meanwhile."""
        self.timelines[key] = timeline
        if self.path is None:
            return
        self.timelines = {**_read(self.path), **self.timelines}
        with suppress(OSError):  # a cache is a convenience: a folder that is full or read-only is no error
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.path, {"sha256": _digest(self.timelines), "timelines": self.timelines})
            _prune(self.path)


@cache
def opened() -> Cache:
    """The cache of this process, as the user's folder has it."""
    folder = cache_folder()
    if folder is None:
        return Cache(None)
    path = folder / f"timelines-{_made_by()}.json"
    return Cache(path, _read(path))


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/trigscale or ~/.cache/trigscale; None where there is no home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # others are to be ignored, by the XDG base directory specification
        return base / "trigscale"
    try:
        return Path.home() / ".cache" / "trigscale"
    except RuntimeError:
        return None


def _made_by() -> str:
    """16 hexadecimal digits that stand for torch, Python and our code."""
    digest = hashlib.sha256(f"{version('torch')} {platform.python_version()}".encode())
    for path in _sources():
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _read(path: Path) -> dict[str, Timeline]:
    """What the file holds; nothing where it is absent, damaged or not ours."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    found = content.get("timelines") if isinstance(content, dict) else None
    if not isinstance(found, dict) or content.get("sha256") != _digest(found) or not all(map(_sound, found.values())):
        return {}
    return found


def _sound(timeline: Any) -> bool:
    """Whether it is a timeline at all."""
    rows = timeline if isinstance(timeline, list) else []
    return bool(rows) and all(
        isinstance(row, list) and len(row) == 6 and all(type(number) is int for number in row) for row in rows
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prune(newest: Path) -> None:
    """Delete the files of other versions but the last `KEPT`."""
    others = [path for path in newest.parent.glob("timelines-*.json") if path != newest]
    for path in sorted(others, key=lambda path: path.stat().st_mtime_ns)[:-KEPT]:
        path.unlink()
