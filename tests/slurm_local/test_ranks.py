"""run_ranks with real processes: what a rank is told, one exit code for all, and that none outlives the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import ranks
from slurm.ranks import run_ranks


def run(script: str, count: int = 2, should_stop: Callable[[], bool] = lambda: False, **variables: str) -> int:
    return run_ranks((sys.executable, "-S", "-c", script), count, {**os.environ, **variables}, should_stop)


def test_each_rank_is_told_who_it_is(tmp_path: Path) -> None:
    told = "import os; n = os.environ; open(n['OUT'] + n['RANK'], 'w').write(' '.join(n[k] for k in n['KEYS'].split()))"
    keys = "LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TRIGSCALE_LAUNCHER_PID"
    assert run(told, 3, OUT=str(tmp_path / "rank"), KEYS=keys) == 0
    found = [(tmp_path / f"rank{n}").read_text().split() for n in range(3)]
    assert [each[0] for each in found] == ["0", "1", "2"]
    assert {tuple(each[1:4]) for each in found} == {("3", "3", "127.0.0.1")}
    assert len({each[4] for each in found}) == 1
    assert {each[5] for each in found} == {str(os.getpid())}


LISTENS = """
import os, socket, sys
port, listener = int(os.environ["MASTER_PORT"]), int(os.environ["TRIGSCALE_LISTENER"])
try:
    socket.create_server(("127.0.0.1", port))
except OSError:
    sys.exit(0 if socket.socket(fileno=listener).getsockname()[1] == port else 3)
sys.exit(4)
"""


def test_no_other_program_can_take_the_port() -> None:
    """From before the ranks start until rank 0 ends it is listened to, on a descriptor that rank 0 is given."""
    assert run(LISTENS, 1) == 0


ENDINGS = [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 70), ("sys.exit(75)", 75)]


@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_the_first_failure_ends_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str, code: int) -> None:
    """The other rank, which would sleep for minutes, is killed after its grace."""
    monkeypatch.setattr(ranks, "DEATH_SECONDS", 0.3)
    script = f"""
import os, sys, time
open(os.environ["OUT"] + os.environ["RANK"], "w").write(str(os.getpid()))
if os.environ["RANK"] == "1":
    {ending}
time.sleep(200)
"""
    start = time.monotonic()
    assert run(script, OUT=str(tmp_path / "pid")) == code
    assert time.monotonic() - start < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid0").read_text()), 0)


def test_a_request_to_stop_reaches_every_rank_once(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
path = os.environ["OUT"] + os.environ["RANK"]
def on_term(*_):
    open(path, "a").write("t")
    time.sleep(0.3)
    sys.exit(75)
signal.signal(signal.SIGTERM, on_term)
open(path, "w").write("")
time.sleep(200)
"""
    files = [tmp_path / f"rank{n}" for n in range(2)]
    assert run(script, 2, lambda: all(path.exists() for path in files), OUT=str(tmp_path / "rank")) == 75
    assert [path.read_text() for path in files] == ["t", "t"]


STOPPING = """
import os, sys, time
from scaling.work.stopping import StopRequest
stop = StopRequest()
with stop.within(float(sys.argv[1])):
    print("ready", flush=True)
    while not (stop() and sys.argv[2] == "heeds"):
        time.sleep(0.01)
time.sleep(float(sys.argv[3]))  # done in time: nobody ends it any more
sys.exit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
@pytest.mark.parametrize(
    ("seconds", "manner", "later", "code"),
    [("100", "heeds", "0", 3), ("0.2", "ignores", "0", 75), ("0.3", "heeds", "0.6", 3)],
)
def test_a_stop_is_heeded_or_ends_the_process_in_time(
    number: signal.Signals, seconds: str, manner: str, later: str, code: int
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", STOPPING, seconds, manner, later]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("the last checkpoint stays" in said) == (manner == "ignores")


NOT_OURS = "from scaling.work.stopping import StopRequest; print(StopRequest()())"


@pytest.mark.parametrize(
    ("shell", "launcher", "stops"),
    [("", "{pid}", False), ("; true", "{pid}", False), ("", "2", True), ("", "x", False)],
)
def test_the_launcher_of_a_shell_does_not_decide(shell: str, launcher: str, stops: bool) -> None:
    """A run that is started by hand from a shell inside a launched job.

    2 is nobody's parent here: an orphan; x is no process.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["TRIGSCALE_LAUNCHER_PID"] = launcher.format(pid=os.getpid())
    command = ["/bin/sh", "-c", f'"{sys.executable}" -c "{NOT_OURS}"{shell}']
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == f"{stops}\n"
