"""metrics.jsonl: one line of JSON every few steps, continued after a restart without a gap or a repetition."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from data_pipeline.files import naming, open_in_place, write_text_atomic
from scaling.run.home import RunHome
from scaling.run.metrics import read_metrics


def take_peak_memory() -> int:
    """Bytes: the most that tensors took on this process's GPU since the last call.

    Of a process that uses no GPU, the most of the machine's memory that it ever took.
    """
    import torch  # not above: readers of a run's metrics do without

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Tracker(Protocol):
    """Something that shows the metrics of one run while it trains."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a step; steps rise."""
        ...

    def image(self, step: int, path: Path) -> None:
        """Show a picture NAME-STEP-N.png of the step that was written last, or of a later one."""
        ...

    def close(self) -> None:
        """Wait until all is where it belongs."""
        ...


class MetricsLog:
    """Appends lines to metrics.jsonl and hands them to trackers; of a run's ranks the first alone has one.

    A line holds step, images (seen so far), what the step logged, images_per_second (since the line before) and
    memory_bytes (`take_peak_memory`). A number that is not finite is null in the file: JSON has no NaN.
    """

    def __init__(self, home: Path, resume_step: int, batch: int, trackers: Sequence[Tracker] = ()) -> None:
        """Continue the file of a run's home after `resume_step`; lines of later steps, which will come again, are cut.

        batch: images a step. The trackers, opened at the same step, are this log's to close.
        """
        self._path = RunHome(home).metrics
        kept = [entry for entry in read_metrics(self._path).lines if entry["step"] <= resume_step]
        write_text_atomic(self._path, "".join(json.dumps(entry) + "\n" for entry in kept))
        # Unbuffered: what could not be written must not be tried again on closing.
        self._file = os.fdopen(open_in_place(self._path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)
        self._batch, self._trackers = batch, trackers
        self._last = (resume_step, time.monotonic())

    def write(self, step: int, entry: Mapping[str, float]) -> None:
        """Append the line of one step, which survives the end of this process; OSError names the file."""
        now = time.monotonic()
        speed = (step - self._last[0]) * self._batch / max(now - self._last[1], 1e-9)
        self._last = (step, now)
        values = {"images": step * self._batch, **entry}
        values |= {"images_per_second": round(speed, 1), "memory_bytes": take_peak_memory()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append((json.dumps({"step": step, **finite}) + "\n").encode())
        for tracker in self._trackers:
            tracker.write(step, values)

    def images(self, step: int, paths: Sequence[Path]) -> None:
        """Show pictures of a step in the trackers."""
        for tracker in self._trackers:
            for path in paths:
                tracker.image(step, path)

    def sync(self) -> None:
        """Flush to the device; done before a checkpoint, so that no line before it can be lost."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def _append(self, line: bytes) -> None:
        with naming(self._path):
            while line:  # a disk that fills up takes a part first
                line = line[self._file.write(line) :]
