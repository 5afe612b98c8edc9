"""What a job finds wrong on its node before its step starts, and what the status then says to change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.attempts import starts
from slurm.resources import Request
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOT, Bench, until

HELD = Request(minutes=10, cpus_per_task=1, options=(("hold", True),))
# What container runtimes are made of: namespaces, in which the program sees another machine's name.
BOX = ("unshare", "--mount", "--uts", "sh", "-c", 'hostname box; exec "$@"', "sh")
WRONG = {
    "absent": (
        ("no-such-runtime", "exec", "image.sif"),
        "has no program no-such-runtime: write its path",
    ),
    "broken": (("sh", "-c", "echo no such image >&2; exit 3"), "ended with code 3 on node n"),
}


@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to make namespaces")
def test_a_run_in_a_container_runs_there(bench: Bench) -> None:
    boxed = bench.with_settings(container=BOX, container_python=sys.executable)
    boxed.put(boxed.job("boxed", 3))
    assert boxed.states() == {"boxed": "done"}
    assert "rank 0 on box begins" in boxed.log("boxed")


def test_a_container_that_cannot_start_the_program_ends_the_job_with_the_key_to_mend(bench: Bench) -> None:
    for name, (words, _) in WRONG.items():
        wrong = bench.with_settings(container=words, container_python=sys.executable)
        wrong.put(wrong.job(name, 1, kind=name))
    found = bench.ended()
    for name, (_, told) in WRONG.items():
        assert found[name].state.value == "failed"
        assert told in found[name].reason
        assert len(starts(bench.submissions.attempts(name))) == 1
        assert bench.step(name) == 0


def test_a_node_whose_clock_is_wrong_is_named(bench: Bench) -> None:
    """The job's Python is an hour ahead; no clock is set."""
    ahead = bench.folder / "ahead"
    ahead.mkdir()
    (ahead / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 3600\n")
    late = bench.with_settings(environment={"PYTHONPATH": f"{ahead}:{ROOT}"})
    late.put(late.job("late", 1))
    condition = bench.ended()["late"]
    assert condition.state.value == "failed"
    assert "3600 s ahead of that of the study's file system: have it set (NTP)" in condition.reason


@pytest.fixture
def small_disk(cluster: Cluster, tmp_path: Path) -> Iterator[Bench]:
    """Jobs whose folder is on a file system of 4 MB."""
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield Bench(cluster, tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_folder_that_takes_no_more_is_told_from_a_crash(small_disk: Bench) -> None:
    """Not a word can be written: the job's exit code tells."""
    bench = small_disk
    bench.put(bench.job("full", 1), request=HELD)
    with (bench.folder / "ballast").open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass
    bench.cluster.call("scontrol", "release", bench.id("full"))
    assert bench.ended()["full"].state.value == "failed"
    told = "its disk is full or your quota is spent (`df`, `quota -s`): make room"
    # sacct hears of the code a moment after squeue hears of the end.
    until(lambda: told in bench.conditions()["full"].reason, lambda: bench.conditions()["full"].reason)
