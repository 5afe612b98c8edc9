"""`study run` with all its processes as forks of one that has imported everything: real processes, in milliseconds.

What differs from the command is that no interpreter starts: sessions, signals, exit codes, files and environment are
those of `slurm.local` and `slurm.ranks`. Each process notes what it is about to do in MARKS/PID.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import scaling.report.build
import slurm.interrupts
import slurm.local
import slurm.ranks
from tests.ranks import context

MARKS = "TRIGSCALE_TEST_MARKS"
LIMIT_SECONDS = 600.0
STAGES = {"train": "training", "draw_samples": "sampling", "evaluate": "scoring"}  # of scaling.work.stages


def mark(word: str) -> None:
    """Note what this process is about to do."""
    path = Path(os.environ[MARKS]) / str(os.getpid())
    text = path.read_text() if path.exists() else ""
    (path.parent / f".{path.name}").write_text(f"{text}{word} {time.monotonic()}\n")
    (path.parent / f".{path.name}").replace(path)


class Forked:
    """What subprocess.Popen is to a launcher, for the command of a worker."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[bytes] | None = None,
        start_new_session: bool = False,
        **_: Any,
    ) -> None:
        self.args, self.returncode, self.pid = command, None, os.fork()
        if not self.pid:
            os._exit(_worker(command[-1], env, stdout, start_new_session))

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _worker(home: str, environment: Mapping[str, str], log: IO[bytes] | None, session: bool) -> int:
    from scaling.work import stages, worker

    try:
        for number in (*slurm.interrupts.STOPPING, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        slurm.interrupts._command = None
        if session:
            os.setsid()
        for stream in (1, 2) if log is not None else ():
            os.dup2(log.fileno(), stream)  # pyright: ignore[reportOptionalMemberAccess]
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers.clear()
        sys.argv = ["worker", home]
        mark("starting")
        for name, word in STAGES.items():
            setattr(stages, name, _marked(word, getattr(stages, name)))
        code = worker.main()
        mark("ended")
        return code
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _marked(word: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def marking(*arguments: Any, **keys: Any) -> Any:
        mark(word)
        return call(*arguments, **keys)

    return marking


def _launcher(arguments: Sequence[str], out: str, marks: str) -> None:
    from scaling.__main__ import main

    os.setsid()
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update({MARKS: marks, "OMP_NUM_THREADS": "1"})
    stand_in = SimpleNamespace(Popen=Forked, DEVNULL=None, STDOUT=None)
    slurm.local.subprocess = slurm.ranks.subprocess = stand_in  # pyright: ignore[reportAttributeAccessIssue]
    scaling.report.build.build_report = lambda folder: folder / "report"  # it takes longer than all else
    sys.argv = ["trigscale", *arguments]
    mark("launching")
    main()


class Launched:
    """One `study run` and the processes of its runs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """folder: an empty one of this launch, for its marks and what it says."""
        self._marks, self.out = folder / "marks", folder / "out"
        self._marks.mkdir(parents=True)
        command = ("study", "run", *arguments)
        self.process = context().Process(target=_launcher, args=(command, str(self.out), str(self._marks)))
        self.process.start()

    def marks(self) -> dict[int, list[tuple[str, float]]]:
        """What each process of a run has noted, with the time: starting, then the stages, and ended."""
        found = {}
        for path in self._marks.glob("[0-9]*"):
            words = [line.split() for line in path.read_text().splitlines()]
            found[int(path.name)] = [(word, float(when)) for word, when in words]
        return {pid: words for pid, words in found.items() if words[0][0] != "launching"}

    def reached(self, word: str) -> bool:
        """Whether the last thing that a living process noted is `word`."""
        return any(words[-1][0] == word and alive(pid) for pid, words in self.marks().items())

    def workers(self) -> list[int]:
        """The processes of runs that are alive, orphans too."""
        return [pid for pid in self.marks() if alive(pid)]

    def running(self) -> bool:
        """Whether the launcher has not ended."""
        return self.process.exitcode is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the launcher alone."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """The launcher's exit code once it and all it started have ended; AssertionError for one that stays."""
        deadline = time.monotonic() + LIMIT_SECONDS
        self.process.join(LIMIT_SECONDS)
        while self.workers() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self.running(), "the launcher stays"
        assert not self.workers(), "a process outlives its launcher"
        assert self.process.exitcode is not None
        return self.process.exitcode

    def said(self) -> str:
        """What the launcher printed."""
        return self.out.read_text()


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
