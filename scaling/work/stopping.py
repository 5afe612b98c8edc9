"""How a process learns that it should save its state and end, and how it ends in time."""

from __future__ import annotations

import os
import signal
import threading
import time

from slurm.local import LAUNCHER_PID

EXIT_AGAIN = 75  # EX_TEMPFAIL: stopped on request; launched again, the run continues


class StopRequest:
    """True once the process was asked to stop (SIGTERM, SIGINT, SIGUSR2), or once its launcher is gone."""

    def __init__(self) -> None:
        self._signalled = False
        self._pipe = os.pipe()
        launcher = os.environ.get(LAUNCHER_PID)
        self._launcher = int(launcher) if launcher else None
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(name, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._signalled = True
        os.write(self._pipe[1], b"!")

    def __call__(self) -> bool:
        return self._signalled or (self._launcher is not None and os.getppid() != self._launcher)

    def within(self, seconds: float) -> None:
        """End the process with EXIT_AGAIN if it is still there `seconds` after a signal.

        A step may be longer than that, or wait for a rank that is dead; what is lost is the time since the last
        checkpoint. A thread does it, since Python's own handlers wait until the main thread is back from a library.
        """
        threading.Thread(target=self._end, args=(seconds,), daemon=True).start()

    def _end(self, seconds: float) -> None:
        os.read(self._pipe[0], 1)
        time.sleep(seconds)
        told = f"asked to stop {seconds:g} s ago (launch.stop_seconds) and not done: ended; the last checkpoint stays\n"
        os.write(2, told.encode())
        os._exit(EXIT_AGAIN)
