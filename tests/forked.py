"""Our programs in processes forked from one that has imported everything.

The same code, signals, files and exit codes as in a fresh interpreter, without the seconds that its imports take.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from tests.ranks import context

WORKERS = "TRIGSCALE_TEST_WORKERS"  # the file in which the workers of a launch note their process numbers
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Program:
    """`python -m NAME` or `python PATH` in a process of its own, with what the tests use of subprocess.Popen."""

    def __init__(self, folder: Path, program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """folder: an empty one, where its output goes."""
        self.outputs, self.noted = (folder / "stdout", folder / "stderr"), folder / "workers"
        names = [str(path) for path in self.outputs]
        self.process: ForkServerProcess = context().Process(
            target=_launched, args=(names, program, [*arguments], {**environment, WORKERS: str(self.noted)})
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the signal that killed it, None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        out, err = (path.read_text() if path.exists() else "" for path in self.outputs)
        return out, err

    def workers(self) -> list[int]:
        """The processes of its runs, alive, orphaned ones too."""
        noted = self.noted.read_text().split() if self.noted.exists() else []
        return [int(pid) for pid in noted if _alive(int(pid))]


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Forked:
    """What `slurm` uses of subprocess.Popen, for workers that are forked from their launcher."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: Any = None,
        stderr: int | None = None,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        assert stdin == subprocess.DEVNULL
        assert stderr in (None, subprocess.STDOUT)
        self.returncode: int | None = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the child must not take them for its launcher
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            _take_over(os.devnull, stdout.fileno() if stdout else 1, stdout.fileno() if stdout else 2, env, pass_fds)
            with Path(env[WORKERS]).open("a") as noted:
                noted.write(f"{os.getpid()}\n")
            _run(command[command.index("-m") + 1], command[command.index("-m") + 2 :])
        signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def poll(self) -> int | None:
        if self.returncode is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _launched(outputs: Sequence[str], program: str, arguments: list[str], environment: Mapping[str, str]) -> None:
    """The first process of a program; what it starts through `slurm` is forked from it in turn."""
    from slurm import local, ranks

    popen = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    local.subprocess = ranks.subprocess = popen  # pyright: ignore[reportAttributeAccessIssue]
    out, err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in outputs)
    _take_over(os.devnull, out, err, environment, ())
    _run(program, arguments)


def _take_over(stdin: str, stdout: int, stderr: int, environment: Mapping[str, str], pass_fds: Sequence[int]) -> None:
    """Be as a process is after exec: its streams, its environment, no other descriptors, no handlers of signals."""
    for target, source in enumerate((os.open(stdin, os.O_RDONLY), os.dup(stdout), os.dup(stderr))):
        os.dup2(source, target)
    sys.stdout, sys.stderr = (open(target, "w", buffering=1, closefd=False) for target in (1, 2))  # noqa: SIM115
    first = 3
    for descriptor in (*sorted(pass_fds), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.environ.clear()
    os.environ.update(environment)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _run(program: str, arguments: Sequence[str]) -> NoReturn:
    """Run a program of ours, or the script at a path, and end the process with its exit code."""
    from scaling.__main__ import main as command_line
    from scaling.study.rehearsed import main as rehearsed
    from scaling.work.worker import main as worker

    sys.argv = [program, *arguments]
    code: Any = 1
    try:
        mains = {"scaling": command_line, "scaling.work.worker": worker, "scaling.study.rehearsed": rehearsed}
        if program in mains:
            code = mains[program]()
        else:
            runpy.run_path(program, run_name="__main__")
            code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)
