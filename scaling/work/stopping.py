"""How a process learns that it should save its state and end, and how it ends in time."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.interrupts import STOPPING
from slurm.local import LAUNCHER_PID

EXIT_AGAIN = 75  # EX_TEMPFAIL: stopped on request; launched again, the run continues
LOOK_SECONDS = 1.0


class StopRequest:
    """True once the process was asked to stop (SIGTERM, SIGINT, SIGUSR2), or once its launcher is gone."""

    def __init__(self) -> None:
        self._signalled = False
        self._pipe = os.pipe()
        self._launcher = _launcher()
        for name in STOPPING:
            signal.signal(name, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._signalled = True
        os.write(self._pipe[1], b"!")

    def __call__(self) -> bool:
        return self._signalled or self._orphaned()

    def _orphaned(self) -> bool:
        return self._launcher is not None and os.getppid() != self._launcher

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End the process with EXIT_AGAIN if it is still in the block `seconds` after it was asked to stop.

        A step may be longer than that, or wait for a rank that is dead; what is lost is the time since the last
        checkpoint. A thread does it, since Python's own handlers wait until the main thread is back from a library.
        """
        over = threading.Event()
        threading.Thread(target=self._end, args=(seconds, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _end(self, seconds: float, over: threading.Event) -> None:
        while not self._orphaned() and not select.select(self._pipe[:1], (), (), LOOK_SECONDS)[0]:
            if over.is_set():
                return
        if over.wait(seconds):
            return
        told = f"asked to stop {seconds:g} s ago (launch.stop_seconds) and not done: ended; the last checkpoint stays\n"
        os.write(2, told.encode())
        os._exit(EXIT_AGAIN)


def _launcher() -> int | None:
    """The process that started this one and must outlive it, if a launcher did.

    One that is a remoter ancestor started the job from whose shell this process was started by hand: it is not ours.
    """
    told = os.environ.get(LAUNCHER_PID)
    if told is None or not told.isdecimal() or int(told) in _remoter_ancestors():
        return None
    return int(told)


def _remoter_ancestors() -> Iterator[int]:
    """The parent of the parent, and so on."""
    process = os.getppid()
    while process > 1:
        # pid (name) state parent ...: the name may hold anything.
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        process = int(stat.rpartition(")")[2].split()[1])
        yield process
