"""How a command is asked to stop: by signals that are heard from its first line on and raised where nothing is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
# One request can arrive as several signals within milliseconds (coreutils' timeout signals its child and then its whole
# group); only a signal later than this is a person asking again.
REPEAT_SECONDS = 1.0
IMPORT_SECONDS = 0.05


class Stopped(BaseException):
    """This process was asked to stop by the signal `number`. Libraries catch KeyboardInterrupt, not this."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Interrupts:
    """The signals that asked this process to stop. number: the first one; repeated: one came again, later."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.repeated = False
        self._first = 0.0

    @property
    def requested(self) -> bool:
        return self.number is not None

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        """A handler that does not raise."""
        if self.number is None:
            self.number, self._first = number, time.monotonic()
        elif time.monotonic() - self._first > REPEAT_SECONDS:
            self.repeated = True

    def throw(self, number: int, frame: FrameType | None) -> None:
        """A handler that raises Stopped, for each request once; during an import a moment later, until it is over."""
        echo = self.requested and time.monotonic() - self._first <= REPEAT_SECONDS
        if number != signal.SIGALRM:
            self.note(number)
            if echo:
                return
        if _importing(frame):
            signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
            return
        assert self.number is not None, "noted, or the alarm would not have been set"
        raise Stopped(self.number)


_command: Interrupts | None = None


def throw_from_now_on() -> None:
    """Raise Stopped in the main thread once SIGINT, SIGTERM or SIGUSR2 comes; called as the first thing of a command.

    Not out of an import: libraries take an exception there for their own failure, or swallow it.
    """
    global _command
    _command = Interrupts()
    for number in (*STOPPING, signal.SIGALRM):
        signal.signal(number, _command.throw)


def ignore_from_now_on() -> None:
    """For a command that is done, or ends because it was asked to: nothing is to disturb its last words."""
    for number in (*STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def noted() -> Iterator[Interrupts]:
    """Within the block the signals are noted, not raised; one that came before it, and was lost, counts."""
    interrupts = _command or Interrupts()
    if _command is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
    previous = {number: signal.signal(number, interrupts.note) for number in STOPPING}
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
