"""metrics.jsonl after restarts, kills and full disks, and what a line holds."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from scaling.run.metrics import read_metrics
from scaling.training.observe import metrics
from scaling.training.observe.metrics import MetricsLog, take_peak_memory

BATCH = 8


class Recorder:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, dict(values)))

    def image(self, step: int, path: Path) -> None:
        self.told.append((step, path))

    def close(self) -> None:
        self.told.append(("closed",))


def written(home: Path, steps: range, resume: int) -> MetricsLog:
    log = MetricsLog(home, resume, BATCH)
    for step in steps:
        log.write(step, {"loss": 1 / step})
    return log


def steps_in(home: Path) -> list[int]:
    return [line["step"] for line in read_metrics(home / "metrics.jsonl").lines]


def test_a_line_holds_what_was_logged_and_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 102.0, 107.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(now))
    log = MetricsLog(tmp_path, 40, BATCH)
    log.write(60, {"loss": 0.5, "skipped": 0})
    log.write(70, {"loss": math.nan, "grad_norm": math.inf, "skipped": 1})
    first, second = read_metrics(tmp_path / "metrics.jsonl").lines
    memory = first.pop("memory_bytes"), second.pop("memory_bytes")
    assert first == {"step": 60, "images": 480, "loss": 0.5, "skipped": 0, "images_per_second": 80.0}
    assert second == {
        "step": 70,
        "images": 560,
        "loss": None,
        "grad_norm": None,
        "skipped": 1,
        "images_per_second": 16.0,
    }
    assert list(first)[:2] == ["step", "images"]
    assert 30e6 < memory[0] <= memory[1] <= take_peak_memory()


def test_the_memory_of_a_gpu_is_its_peak_since_the_line_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """With counters in place of the allocator's; tests/gpu has it with a GPU's own."""
    held, peak = 100, 900

    def reset() -> None:
        nonlocal peak
        peak = held

    for name, stand_in in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda: peak,
        "reset_peak_memory_stats": reset,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    assert [take_peak_memory(), take_peak_memory()] == [900, 100]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert take_peak_memory() > 30e6


def test_a_restart_cuts_what_will_come_again(tmp_path: Path) -> None:
    written(tmp_path, range(1, 8), 0).close()
    written(tmp_path, range(4, 10), 3).close()
    assert steps_in(tmp_path) == list(range(1, 10))


def test_a_line_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    log = written(tmp_path, range(1, 4), 0)
    assert steps_in(tmp_path) == [1, 2, 3]
    log.close()


def test_a_kill_at_any_byte_leaves_whole_lines_to_continue(tmp_path: Path) -> None:
    written(tmp_path, range(1, 5), 0).close()
    path = tmp_path / "metrics.jsonl"
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert steps_in(tmp_path) == list(range(1, whole + 1))
        resume = whole // 2
        written(tmp_path, range(resume + 1, 6), resume).close()
        assert steps_in(tmp_path) == [1, 2, 3, 4, 5]


def test_a_disk_that_fills_up_is_told_with_the_name_of_the_log(tmp_path: Path) -> None:
    path, limits = tmp_path / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    log = written(tmp_path, range(2, 3), 0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            log.write(4, {"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.close()  # must not write the rest
    assert caught.value.filename == str(path)
    assert path.read_bytes().count(b"\n") == 1
    written(tmp_path, range(3, 5), 2).close()
    assert steps_in(tmp_path) == [2, 3, 4]


def test_sync_flushes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tmp_path, range(1, 2), 0)
    flushed: list[Path] = []
    monkeypatch.setattr(metrics.os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").readlink()))
    log.sync()
    assert flushed == [(tmp_path / "metrics.jsonl").resolve()]
    log.close()


def test_trackers_are_told_all_lines_and_pictures(tmp_path: Path) -> None:
    tracker, picture = Recorder(), tmp_path / "step-00000002-1.png"
    log = MetricsLog(tmp_path, 0, BATCH, [tracker])
    log.write(2, {"loss": math.inf})
    log.images(2, [picture])
    log.close()
    (step, values), *others = tracker.told
    assert step == 2
    assert isinstance(values, dict)
    assert values["loss"] == math.inf
    assert {**values, "step": 2, "loss": None} == json.loads((tmp_path / "metrics.jsonl").read_text())
    assert others == [(2, picture), ("closed",)]
