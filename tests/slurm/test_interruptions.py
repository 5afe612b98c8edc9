"""Jobs on a real cluster that are told to stop, requeued, killed, or lose their node or the controller."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.attempts import end_rank, starts
from slurm.client import SlurmError
from slurm.resources import Request
from slurm.submit import cancel
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import REQUEST, Bench, until

STEPS = 60
WIDE = Request(minutes=10, nodes=2, tasks_per_node=2, cpus_per_task=1, memory_mb=200)


def codes(bench: Bench, name: str) -> list[int | None]:
    """What each start of a job ended with."""
    return [start.attempt().code for start in starts(bench.submissions.attempts(name))]


def whole(bench: Bench, name: str, steps: int) -> None:
    """Every step was taken once."""
    lines = (bench.folder / name / "metrics.jsonl").read_text().splitlines()
    assert lines == [f'{{"step": {step}}}' for step in range(1, steps + 1)]


def warn(bench: Bench, name: str) -> None:
    """As SLURM does before the time limit. By `timeout`: on a waiting array scancel would repeat it."""
    bench.cluster.call("timeout", "5", "scancel", "--signal=USR2", bench.id(name), check=False)


def requeue(bench: Bench, name: str) -> None:
    """As an administrator does: no signal that would leave time to save."""
    bench.cluster.call("scontrol", "requeue", bench.id(name))


def kill_rank(bench: Bench, name: str) -> None:
    if pid := (bench.folder / name / "begun-0").read_text():  # empty while it begins
        os.kill(int(pid), signal.SIGKILL)


def forgotten(bench: Bench, name: str) -> None:
    """Wait until the controller has dropped a job that ended."""
    number = bench.id(name).partition("_")[0]
    until(lambda: number not in bench.cluster.call("squeue", "-h", "-t", "all", "-o", "%F").stdout.split())


@pytest.fixture(scope="module")
def struck(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Jobs that ran side by side, each interrupted in its own way, once all have ended."""
    bench = Bench(cluster, tmp_path_factory.mktemp("struck"))
    for name in ("once", "twice"):
        (bench.home(name) / "crash-at").write_text("4")
    (bench.home("once") / "crash-once").touch()
    strikes: dict[str, Callable[[Bench, str], None]] = {"warned": warn, "moved": requeue, "haunted": warn}
    jobs = [bench.job(name, STEPS, seconds=0.1) for name in strikes]
    jobs += [bench.job("child", 1, "warned", kind="child"), bench.job("once", 8), bench.job("twice", 8)]
    bench.put(*jobs)
    strikes |= {"wide-killed": kill_rank, "wide-warned": warn}
    wide = [bench.job(name, STEPS, seconds=0.1, kind="wide") for name in ("wide-killed", "wide-warned")]
    bench.put(*wide, request=WIDE)
    for name, strike in strikes.items():
        bench.reaches(name, 5)
        strike(bench, name)
    until(lambda: len(codes(bench, "haunted")) == 2)
    end_rank(bench.submissions.attempts("haunted") / "0001", 0, 1)  # as a rank of the first start that lives on would
    bench.ended()
    return bench


def test_a_warned_job_saves_is_requeued_and_goes_on(struck: Bench) -> None:
    """With what it waits for: the child starts after the second start has ended."""
    assert codes(struck, "warned") == [75, 0]
    whole(struck, "warned", STEPS)
    first, second = starts(struck.submissions.attempts("warned"))
    assert (first.begun["restarts"], second.begun["restarts"]) == (0, 1)
    assert starts(struck.submissions.attempts("child"))[0].begun["time"] >= second.ended["time"]


def test_a_requeue_without_a_warning_is_no_end(struck: Bench) -> None:
    """NODE_FAIL and an administrator's requeue leave no word; the next start says so, and the job goes on."""
    assert struck.states()["moved"] == "done"
    assert codes(struck, "moved")[1:] == [0]
    whole(struck, "moved", STEPS)


def test_a_crash_is_tried_again_and_the_same_crash_twice_is_the_end(struck: Bench) -> None:
    assert (codes(struck, "once"), codes(struck, "twice")) == ([70, 0], [70, 70])
    condition = struck.conditions()["twice"]
    assert condition.state.value == "failed"
    assert "crashed twice at step 4" in condition.reason


def test_a_killed_rank_ends_the_others_and_its_signal_is_known(struck: Bench) -> None:
    """sacct calls such a step completed, or takes 128 off its code: ours is the signal itself."""
    assert codes(struck, "wide-killed") == [-signal.SIGKILL, 0]
    assert struck.log("wide-killed").count("begins after") == 8
    whole(struck, "wide-killed", STEPS)


def test_several_ranks_hear_a_warning_and_continue_together(struck: Bench) -> None:
    assert codes(struck, "wide-warned") == [75, 0]
    whole(struck, "wide-warned", STEPS)


def test_what_an_old_start_says_late_changes_nothing(struck: Bench) -> None:
    """After a requeue, ranks of the first start may live on; they write into that start's folder."""
    assert struck.states()["haunted"] == "done"
    assert codes(struck, "haunted") == [75, 0]


def test_a_cancelled_job_is_not_requeued_by_its_supervisor(bench: Bench) -> None:
    """It gets TERM as a job does whose time is over, saves and says 75; nobody asked for another start."""
    bench.put(bench.job("gone", STEPS * 20, seconds=0.1))
    bench.reaches("gone", 3)
    bench.cluster.call("scancel", bench.id("gone"))
    condition = bench.ended()["gone"]
    assert (condition.state.value, condition.reason) == ("cancelled", "cancelled from outside")
    assert codes(bench, "gone") == [75]


def test_an_element_that_is_cancelled_while_it_waits_does_not_count_as_done(bench: Bench) -> None:
    """afterok on such an element would let the child run: children wait for the whole, or by aftercorr."""
    jobs = [bench.job(f"p{number}", 100, kind="parent") for number in range(3)]
    jobs += [bench.job(f"c{number}", 1, f"p{number}", kind="child") for number in range(3)]
    held = Request(minutes=10, cpus_per_task=1, options=(("hold", True),))
    bench.put(*jobs[:3], request=held)
    bench.put(*jobs)
    bench.cluster.call("scancel", bench.id("p1"))
    until(lambda: bench.conditions()["p1"].state.value == "cancelled")
    assert "neither squeue nor sacct" in bench.conditions()["p1"].reason or bench.conditions()["p1"].reason
    assert bench.step("c1") == 0
    cancel(bench.submissions, bench.client)
    assert bench.step("c1") == 0


@pytest.mark.nightly
def test_a_job_longer_than_its_time_limit_goes_on_in_other_starts(bench: Bench) -> None:
    """One minute at a time for three minutes of steps."""
    bench.with_settings(signal_seconds=20).put(
        bench.job("long", 180, seconds=1.0), request=Request(minutes=1, cpus_per_task=1)
    )
    assert bench.states() == {"long": "done"}
    whole(bench, "long", 180)
    assert len(codes(bench, "long")) >= 3
    assert set(codes(bench, "long")) == {75, 0}


@pytest.mark.nightly
def test_a_failed_parent_that_is_requeued_by_hand_has_its_children_armed_again(bench: Bench) -> None:
    """An element of an array, whose child was cancelled, or it would wait for ever; submitted again that child alone
    waits for the parent's new start."""
    (bench.home("p0") / "crash-at").write_text("2")
    jobs = [bench.job(f"p{number}", 40, seconds=0.1, kind="parent") for number in range(2)]
    jobs += [bench.job(f"c{number}", 1, f"p{number}", kind="child") for number in range(2)]
    assert bench.put(*jobs).arrays == 2
    assert bench.states() == {"p0": "failed", "p1": "done", "c0": "cancelled", "c1": "done"}
    (bench.folder / "p0" / "crash-at").unlink()
    requeue(bench, "p0")
    until(lambda: bench.conditions()["p0"].active)
    outcome = bench.put(jobs[0], jobs[2])  # a study leaves out what is done
    assert (list(outcome.active), list(outcome.submitted)) == (["p0"], ["c0"])
    assert bench.states() == dict.fromkeys(("p0", "p1", "c0", "c1"), "done")
    parent, child = (starts(bench.submissions.attempts(name))[-1] for name in ("p0", "c0"))
    assert child.begun["time"] >= parent.ended["time"]
    assert [codes(bench, name) for name in ("p1", "c1")] == [[0], [0]]


@pytest.mark.nightly
def test_a_job_that_hears_of_its_time_limit_too_late_goes_on_all_the_same(bench: Bench) -> None:
    """It ends within SLURM's KillWait; the supervisor knows by the clock that it was not cancelled."""
    (bench.home("deaf") / "deaf").touch()
    bench.put(bench.job("deaf", 75, seconds=1.0), request=Request(minutes=1, cpus_per_task=1))
    assert bench.states() == {"deaf": "done"}
    assert set(codes(bench, "deaf")) == {75, 0}
    whole(bench, "deaf", 75)


@pytest.mark.nightly
def test_a_preempted_job_goes_on_when_there_is_room(bench: Bench) -> None:
    """One that ends in its grace would be COMPLETED, were it not requeued by its own supervisor."""
    bench.put(bench.job("weak", STEPS * 3, seconds=0.1), request=WIDE)
    bench.reaches("weak", 5)
    urgent = Request(minutes=10, nodes=2, cpus_per_task=8, options=(("partition", "urgent"),))
    bench.put(bench.job("strong", 10, kind="strong"), request=urgent)
    assert bench.states() == {"weak": "done", "strong": "done"}
    whole(bench, "weak", STEPS * 3)
    assert len(codes(bench, "weak")) > 1
    first, last = (starts(bench.submissions.attempts(name))[-1] for name in ("strong", "weak"))
    assert last.ended["time"] >= first.ended["time"]


@pytest.mark.nightly
def test_a_node_that_goes_down_takes_no_job_with_it(bench: Bench) -> None:
    bench.put(bench.job("moved", STEPS * 3, seconds=0.1))
    bench.reaches("moved", 5)
    node = bench.conditions()["moved"].node
    bench.cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def over() -> bool:
        """Where the old process is on the node still, the job is held: the status says what to do, which is done."""
        condition = bench.conditions()["moved"]
        if "`scontrol release` it" in condition.reason:
            bench.cluster.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            bench.cluster.call("scontrol", "release", condition.id, check=False)
        return not condition.active

    until(over)
    assert bench.states() == {"moved": "done"}
    assert len(codes(bench, "moved")) > 1
    assert codes(bench, "moved")[-1] == 0
    bench.cluster.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    until(lambda: bench.cluster.states()[node] == "idle")


@pytest.mark.nightly
def test_what_waits_for_a_node_that_is_drained_is_submitted(bench: Bench) -> None:
    """It could run when the node is back; what no node could ever run is refused all the same."""
    bench.cluster.call("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    try:
        assert bench.put(bench.job("wide", 2), request=WIDE).submitted.keys() == {"wide"}
        with pytest.raises(SlurmError, match="lower gpus_per_node"):
            bench.put(bench.job("never", 2), request=Request(minutes=1, gpus_per_task=9))
        assert bench.conditions()["wide"].state.value == "waiting"
    finally:
        bench.cluster.call("scontrol", "update", "nodename=n1", "state=resume")
    assert bench.states() == {"wide": "done"}


@pytest.mark.nightly
def test_daemons_that_restart_disturb_nothing(bench: Bench) -> None:
    bench.put(bench.job("calm", STEPS * 3, seconds=0.1), bench.job("after", 1, "calm", kind="after"))
    bench.reaches("calm", 5)
    cluster = bench.cluster
    cluster.kill("slurmctld", signal.SIGTERM)
    with pytest.raises(SlurmError, match="the controller is down: try again later"):
        bench.put(bench.job("more", 1))
    cluster.start_controller()
    for node in ("n1", "n2"):
        cluster.kill(f"slurmd.{node}", signal.SIGTERM)
        cluster.start_node(node)
    assert bench.put(bench.job("more", 1)).submitted.keys() == {"more"}
    assert bench.states() == {"calm": "done", "after": "done", "more": "done"}
    assert codes(bench, "calm") == [0]


@pytest.mark.nightly
def test_a_failed_parent_that_slurm_has_forgotten_is_still_failed(bench: Bench) -> None:
    """afterok on such a number would let the child run at once. Our own files say what became of it."""
    (bench.home("parent") / "crash-at").write_text("2")
    parent = bench.job("parent", 4)
    bench.put(parent)
    assert bench.states() == {"parent": "failed"}
    conf = bench.cluster.conf
    conf.write_text(conf.read_text().replace("MinJobAge=3600", "MinJobAge=2"))
    bench.cluster.call("scontrol", "reconfigure")
    forgotten(bench, "parent")
    outcome = bench.put(parent, bench.job("child", 1, "parent", kind="child"))
    assert (list(outcome.failed), list(outcome.refused), outcome.submitted) == (["parent"], ["child"], {})
    bench.put(bench.job("other", 2))
    assert bench.states()["other"] == "done"
    forgotten(bench, "other")
    assert bench.states()["other"] == "done"
    conf.write_text(conf.read_text().replace("MinJobAge=2", "MinJobAge=3600"))
    bench.cluster.call("scontrol", "reconfigure")


@pytest.mark.nightly
def test_random_interruptions_lose_no_step(bench: Bench) -> None:
    """Of a job of one rank and of one of four on two nodes."""
    rng = random.Random(0)
    strikes: list[Callable[[Bench, str], None]] = [warn, requeue, kill_rank]
    for name, request in (("one", REQUEST), ("wide", WIDE)):
        bench.put(bench.job(name, 100, seconds=0.1), request=request)
        for strike in range(1, 9):
            bench.reaches(name, 10 * strike)
            rng.choice(strikes)(bench, name)
            bench.reaches(name, 10 * strike + 2)
    assert bench.states() == {"one": "done", "wide": "done"}
    whole(bench, "one", 100)
    whole(bench, "wide", 100)


def test_paths_are_short_enough(bench: Bench, tmp_path: Path) -> None:
    """A name of any text is one of a folder, the same for the same."""
    job = bench.job("plain", 1)
    odd = type(job)("odd / 'name' $(x)\n|", job.command, job.log, kind="a b")
    bench.put(odd)
    assert bench.states() == {odd.name: "done"}
