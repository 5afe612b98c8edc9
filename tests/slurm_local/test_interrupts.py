"""Signals that ask a command to stop, from its first line on: none is lost, and none is thrown out of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.interrupts import STOPPING

ROOT = Path(__file__).parents[2]

# A module that takes what is raised while it is imported for a failure of its own, as libraries do.
SWALLOWS = """
import os, time
print("importing", flush=True)
try:
    os.read(0, 1)
    time.sleep(0.2)
except BaseException as error:
    print("lost", repr(error))
"""
COMMAND = """
import sys, time
from slurm.interrupts import Stopped, ignore_from_now_on, throw_from_now_on
throw_from_now_on()
try:
    import swallows
    time.sleep(60)
except Stopped as stopped:
    ignore_from_now_on()
    print("stopped by", stopped.number)
"""


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_during_an_import_is_raised_after_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-S", "-c", COMMAND]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    out, _ = process.communicate("!", timeout=60)
    assert out == f"stopped by {int(number)}\n"


NOTED = """
import os, signal
from slurm.interrupts import Stopped, noted, throw_from_now_on
throw_from_now_on()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Stopped:
    pass
os.kill(os.getpid(), signal.SIGINT)
with noted() as interrupts:
    print(interrupts.number, interrupts.repeated)
    os.kill(os.getpid(), signal.SIGUSR2)
    print("not thrown")
"""


def test_a_request_that_was_swallowed_counts_when_jobs_are_to_start() -> None:
    """And one that comes as two signals at once is one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-c", NOTED]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.splitlines() == [f"{int(signal.SIGTERM)} False", "not thrown"]


def catches(process: subprocess.Popen[str], number: int) -> bool:
    """Whether the process has a handler of its own for that signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


@pytest.mark.parametrize(
    ("module", "number", "code", "told"),
    [
        ("scaling", signal.SIGTERM, 143, "stopped. The same command again continues."),
        ("scaling", signal.SIGINT, 130, "stopped. The same command again continues."),
        ("scaling.work.worker", signal.SIGTERM, 75, "stopped before anything was begun"),
        ("scaling.work.worker", signal.SIGUSR2, 75, "stopped before anything was begun"),
    ],
)
def test_a_command_hears_signals_from_its_first_line_on(
    tmp_path: Path, module: str, number: signal.Signals, code: int, told: str
) -> None:
    """From when SIGUSR2 is caught, the last of the three: nothing but Python itself has started then."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment
    )
    while not catches(process, signal.SIGUSR2):
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert told in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
