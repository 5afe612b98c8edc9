"""A window of steps under the profiler: where the time goes, and what takes the memory."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from data_pipeline.files import scratch_folder, write_bytes_atomic, write_text_atomic
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError

ROWS = 30  # operators of the table
EVENTS = 1_000_000  # allocations and releases of which a memory snapshot knows the history

log = logging.getLogger(__name__)


class ProfileWindow:
    """Records the steps [first, last] of launch.profile into the folder `profile` of the run's home.

    Of rank 0: rank-0-steps-A-B.json.gz, a trace for chrome://tracing or ui.perfetto.dev, and rank-0-steps-A-B.txt, the
    operators that took most of the time. With launch.memory_snapshot, of each rank N: memory-rank-N.pickle, for
    docs.pytorch.org/memory_viz. A run that is continued inside the window records the rest of it.
    """

    def __init__(self, launch: Launch, home: Path, device: torch.device, rank: int) -> None:
        """Raises ConfigError where a memory snapshot has no GPU or no window, or the window ends before it starts."""
        check_profile(launch, device)
        self._window = range(0) if launch.profile is None else range(launch.profile[0], launch.profile[1] + 1)
        self._folder, self._device, self._rank = home / "profile", device, rank
        self._memory = launch.memory_snapshot
        self._recorded: list[int] = []
        self._profiler: profile | None = None

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Around the training of one step; after the window's last step what was recorded is written."""
        if step not in self._window:
            yield
            return
        if not self._recorded:
            self._start()
        self._recorded.append(step)
        with record_function(f"step {step}"):
            yield
        if step == self._window[-1]:
            self.close()

    def close(self) -> None:
        """Write what was recorded of a window that training ended in."""
        if not self._recorded:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._folder.mkdir(exist_ok=True)
        if self._profiler is not None:
            self._profiler.stop()
            self._write(self._profiler)
        if self._memory:
            self._write_memory()
        self._profiler, self._recorded = None, []

    def _start(self) -> None:
        if self._memory:
            torch.cuda.memory._record_memory_history(max_entries=EVENTS)  # pyright: ignore[reportPrivateUsage]
        if self._rank == 0:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities)
            self._profiler.start()

    def _write(self, profiler: profile) -> None:
        first, last = self._recorded[0], self._recorded[-1]
        path = self._folder / f"rank-{self._rank}-steps-{first}-{last}.json.gz"
        with scratch_folder(self._folder) as folder:
            raw = folder / "trace.json"
            profiler.export_chrome_trace(str(raw))
            write_bytes_atomic(path, gzip.compress(raw.read_bytes(), mtime=0))
        by = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=ROWS)
        write_text_atomic(self._folder / f"rank-{self._rank}-steps-{first}-{last}.txt", table + "\n")
        log.info("profile of steps %d to %d: %s", first, last, path)

    def _write_memory(self) -> None:
        path = self._folder / f"memory-rank-{self._rank}.pickle"
        with scratch_folder(self._folder) as folder:
            raw = folder / "memory"
            torch.cuda.memory._dump_snapshot(str(raw))  # pyright: ignore[reportPrivateUsage]
            write_bytes_atomic(path, raw.read_bytes())
        torch.cuda.memory._record_memory_history(enabled=None)  # pyright: ignore[reportPrivateUsage]


def check_profile(launch: Launch, device: torch.device) -> None:
    """ConfigError where launch.profile and launch.memory_snapshot ask for what cannot be had on the device."""
    window = launch.profile
    if window is not None and window[0] > window[1]:
        raise ConfigError(f"launch.profile: {list(window)} ends before it starts: write [first step, last step]")
    if launch.memory_snapshot and window is None:
        raise ConfigError("launch.memory_snapshot: true, but launch.profile names no steps: set it to [first, last]")
    if launch.memory_snapshot and device.type != "cuda":
        raise ConfigError("launch.memory_snapshot: true, but the run is on the CPU: set it to false, or use a GPU")
