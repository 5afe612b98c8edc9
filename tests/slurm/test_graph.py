"""Graphs on a real cluster: what runs after what, what is submitted twice, and what a failure does to the rest."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from slurm.attempts import starts
from slurm.client import SlurmError
from slurm.resources import Request
from slurm.submit import cancel
from tests.slurm.conftest import REQUEST, Bench


def family(bench: Bench, **keys: int) -> list:
    """Two teachers, a student of each, and what comes when all have ended."""
    jobs = [bench.job(f"teacher-{size}", keys.get(f"t{size}", 4), kind="teacher") for size in "ab"]
    jobs += [bench.job(f"student-{size}", 3, f"teacher-{size}", kind="student") for size in "ab"]
    return [*jobs, bench.job("report", 1, kind="report", after=tuple(job.name for job in jobs))]


def test_a_graph_runs_in_its_order_and_is_submitted_once(bench: Bench) -> None:
    jobs = family(bench)
    first = bench.put(*jobs)
    assert first.arrays == 3
    assert len(first.submitted) == 5
    again = bench.put(*jobs)
    assert (again.arrays, again.submitted) == (0, {})
    assert set(bench.states().values()) == {"done"}
    begun = {job.name: starts(bench.submissions.attempts(job.name))[0] for job in jobs}
    for size in "ab":
        assert begun[f"student-{size}"].begun["time"] >= begun[f"teacher-{size}"].ended["time"]
    assert begun["report"].begun["time"] >= max(start.ended["time"] for start in list(begun.values())[:-1])


def test_a_failure_ends_its_own_line_and_is_reported(bench: Bench) -> None:
    """The child of the failed one is cancelled, not the other; what is after all runs; a retry arms the line anew."""
    jobs = family(bench)
    (bench.home("teacher-a") / "crash-at").write_text("2")
    bench.put(*jobs)
    states = bench.states()
    assert states == dict.fromkeys([f"{kind}-{size}" for kind in ("teacher", "student") for size in "ab"], "done") | {
        "teacher-a": "failed",
        "student-a": "cancelled",
        "report": "done",
    }
    condition = bench.conditions()["teacher-a"]
    assert condition.reason == "it crashed twice at step 2, the last time with code 70"
    assert condition.starts == 2
    after = bench.job("report", 2, kind="report", after=("teacher-a", "student-a"))
    wanted = [job for job in jobs if job.name in ("teacher-a", "student-a")]
    refused = bench.put(*wanted, after)
    assert list(refused.failed) == ["teacher-a"]
    assert refused.refused == {"student-a": "needs teacher-a, which failed"}
    assert refused.submitted == {}
    (bench.home("teacher-a") / "crash-at").unlink()
    assert set(bench.put(*wanted, after, retry_failed=True).submitted) == {"teacher-a", "student-a", "report"}
    assert {bench.ended()[job.name].state.value for job in wanted} == {"done"}


def _put(folder: Path, bench: Bench) -> int:
    return len(bench.put(*family(bench)).submitted)


def test_two_people_at_once_submit_each_job_once(bench: Bench) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        counts = pool.starmap(_put, [(bench.folder, bench)] * 2)
    assert sorted(counts) == [0, 5]
    assert set(bench.states().values()) == {"done"}
    assert [len(starts(bench.submissions.attempts(job.name))) for job in family(bench)] == [1] * 5


def test_a_submission_that_was_cut_short_is_found_again(bench: Bench) -> None:
    """sbatch took it, and whoever called died before the answer was noted."""
    job = bench.job("alone", 10)
    bench.put(job)
    (record,) = (bench.submissions.folder / "submissions").glob("0*.json")
    text = record.read_text()
    number = bench.submissions.places()["alone"].submission.number
    record.write_text(text.replace(f'"number": {number}', '"number": null'))
    assert bench.put(job).submitted == {}
    assert bench.submissions.places()["alone"].submission.number == number
    assert bench.states() == {"alone": "done"}
    never = record.with_name("0002-steps-never.json")  # sbatch had not been called when that one died
    never.write_text(text.replace(f'"number": {number}', '"number": null').replace(record.stem, never.stem))
    never.chmod(0o600)
    assert cancel(bench.submissions, bench.client) == []
    assert not never.exists()


def test_cancel_stops_all_and_what_was_reached_goes_on_later(bench: Bench) -> None:
    jobs = [bench.job("long", 60, seconds=0.2), bench.job("next", 2, "long")]
    bench.put(*jobs)
    bench.reaches("long", 3)
    assert sorted(cancel(bench.submissions, bench.client)) == ["long", "next"]
    assert bench.states() == {"long": "cancelled", "next": "cancelled"}
    assert bench.conditions()["long"].reason == "cancelled by `study cancel`"
    reached = bench.step("long")
    shorter = [bench.job("long", reached + 2), jobs[1]]
    assert set(bench.put(*shorter).submitted) == {"long", "next"}
    assert bench.states() == {"long": "done", "next": "done"}
    assert f"begins after {reached}" in bench.log("long")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"options": (("partition", "nowhere"),)}, "set `partition` of the cluster file"),
        ({"nodes": 3}, "ask for fewer devices"),
        ({"minutes": 40, "options": (("partition", "short"),)}, "set `minutes` of the cluster file to less"),
        ({"gpus_per_task": 9}, "lower gpus_per_node"),
        ({"options": (("no-such-option", "1"),)}, "sbatch knows no such option"),
    ],
)
def test_what_the_cluster_cannot_give_is_found_before_anything_is_submitted(
    bench: Bench, changes: dict, told: str
) -> None:
    wanted = Request(**{"minutes": 10, **changes})
    jobs = [bench.job("a", 1, kind="one"), bench.job("b", 1, "a", kind="two")]
    with pytest.raises(SlurmError, match=r".*") as error:
        bench.put(*jobs, request=wanted)
    assert told in str(error.value)
    assert bench.submissions.places() == {}
    assert "bench" not in bench.client.run("squeue", "-h", "-o", "%j", "-t", "pending,running")


def test_a_job_that_never_began_says_why(bench: Bench) -> None:
    """A failing line of setup ends the job; a folder for its log that the node does not have, before it starts."""
    bench.with_settings(setup=("module load nothing-here",)).put(bench.job("setup", 1))
    bench.ended()
    bench.put(bench.job("log", 1), request=Request(minutes=10, cpus_per_task=1, options=(("hold", True),)))
    bench.submissions.logs.rename(bench.folder / "elsewhere")
    bench.cluster.call("scontrol", "release", bench.id("log"))
    conditions = bench.ended()
    assert "a line of `setup` or a module failed: see slurm/logs/" in conditions["setup"].reason
    assert "on a file system that the nodes share?" in conditions["log"].reason
    assert {condition.state.value for condition in conditions.values()} == {"failed"}


def test_no_sbatch_says_where_to_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bench.client
    client.environment = {**client.environment, "PATH": "/nonexistent"}
    with pytest.raises(SlurmError, match="run this on a login node"):
        client.run("sbatch", "--version")


def test_a_thousand_jobs_are_few_calls(bench: Bench) -> None:
    """Seeds of four sizes: two calls of sbatch for each kind, and one of each program for their status."""
    teachers = [bench.job(f"t{number}", 1, kind="teacher") for number in range(40)]
    students = [bench.job(f"s{number}", 1, f"t{number}", kind="student") for number in range(40)]
    held = Request(minutes=10, options=(("hold", True),))
    outcome = bench.put(*teachers, *students, request=held)
    assert (len(outcome.submitted), outcome.arrays) == (80, 2)
    client = bench.client
    from slurm.states import conditions

    found = conditions(bench.submissions, client, bench.submissions.places())
    assert len(found) == 80
    assert client.calls == {"squeue": 1, "scontrol": 1}
    cancel(bench.submissions, bench.client)


def test_the_request_reaches_the_nodes(bench: Bench) -> None:
    """One task a GPU, which sees that one alone; several nodes; a rank for each task."""
    wanted = Request(minutes=10, nodes=2, tasks_per_node=2, gpus_per_task=1, cpus_per_task=1, memory_mb=200)
    script = 'echo "rank $RANK of $WORLD_SIZE local $LOCAL_RANK of $LOCAL_WORLD_SIZE sees $CUDA_VISIBLE_DEVICES '
    script += 'meets $MASTER_ADDR"'
    home = bench.home("wide")
    from slurm.graph import Job

    bench.put(Job("wide", ("/bin/sh", "-c", script), home / "log.txt"), request=wanted)
    assert bench.states() == {"wide": "done"}
    said = sorted(line for line in bench.log("wide").splitlines() if line.startswith("rank"))
    place = said[0].split()[-1]
    assert [line.split(" sees")[0] for line in said] == [f"rank {n} of 4 local 0 of 2" for n in range(4)]
    assert sorted(line.split("sees ")[1].split()[0] for line in said) == ["0", "0", "1", "1"]
    assert all(line.endswith(f"meets {place}") for line in said)


def test_nobody_waits(bench: Bench) -> None:
    """Submitting returns before anything has run."""
    begun = time.monotonic()
    bench.put(bench.job("slow", 1000, seconds=1), request=REQUEST)
    assert bench.conditions()["slow"].active
    assert time.monotonic() - begun < 300
    cancel(bench.submissions, bench.client)
