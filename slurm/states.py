"""What is true of jobs that were submitted: squeue while it knows them, our own files, and sacct for what left neither.

One call of squeue and one of sacct for any number of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from slurm.attempts import Start, starts
from slurm.client import Client, SlurmError
from slurm.restarts import NO_ROOM, Verdict
from slurm.submissions import Place, Submissions

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESIZING")
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
ENDED = {
    "TIMEOUT": "its time limit came before it had saved and stopped: submit again, with a larger `signal_seconds`",
    "NODE_FAIL": "its node failed: submit again",
    "PREEMPTED": "it was preempted and not requeued: submit again",
    "OUT_OF_MEMORY": "it ran out of memory: ask for more (memory_gb) or use a smaller launch.microbatch",
    "BOOT_FAIL": "its node did not start: submit again",
    "DEADLINE": "its deadline passed",
}
REASONS = {
    "BeginTime": "requeued; it may start when the time to begin is reached",
    "Dependency": "waits for its parents",
    "DependencyNeverSatisfied": "waits for a job that failed: submit again with --retry-failed",
    "JobHeldUser": "held: `scontrol release` it",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "waits its turn: `parallel` of the cluster file",
    "Priority": "waits its turn",
    "Resources": "waits for free nodes",
    "PartitionTimeLimit": "asks for more time than the partition gives: lower `minutes`, cancel, submit again",
    "ReqNodeNotAvail": "its nodes are down or reserved",
    "launch failed requeued held": "could not be started on its node and is held: `scontrol release` it",
}
NO_LOG = (
    "SLURM could not start it (JobLaunchFailure, usually the log folder): is the study's folder on a file system "
    "that the nodes share?"
)
ROOM = (
    "the study's folder takes no more: its disk is full or your quota is spent (`df`, `quota -s`): make room, or set "
    "launch.folder elsewhere; then submit again"
)


class State(Enum):
    """What a job is, in a word."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Condition:
    """What is known of a job. id: SLURM's; reason: why it waits or how it ended; starts: how often it was started."""

    state: State
    id: str
    reason: str = ""
    starts: int = 0
    node: str = ""

    @property
    def active(self) -> bool:
        """Whether SLURM has it and it has not ended."""
        return self.state in (State.WAITING, State.RUNNING)


def conditions(submissions: Submissions, client: Client, places: Mapping[str, Place]) -> dict[str, Condition]:
    """The condition of each job.

    SlurmError where squeue does not answer, that is the controller is down, and where a job that has not ended was
    submitted on another cluster: its number means another job here.
    """
    away = {name: place for name, place in places.items() if place.submission.cluster != client.cluster}
    for name, place in away.items():
        last = _history(submissions, name, place)[-1:]
        if not last or last[0].ended.get("verdict") not in (Verdict.DONE.value, Verdict.FAILED.value):
            raise SlurmError(
                f"{name}: was submitted on cluster {place.submission.cluster!r}, and this is {client.cluster!r}: look "
                f"after it there, or remove {submissions.folder} once it is cancelled there"
            )
    here = [place for name, place in places.items() if name not in away]
    queued = queue(client, _numbers(here))
    # After squeue: what ended before that has left its word.
    histories = {name: _history(submissions, name, place) for name, place in places.items()}
    # squeue tells no exit codes.
    failed = {name for name, place in places.items() if place.id in queued and queued[place.id].state == "FAILED"}
    silent = {name for name in failed if not _said(histories[name])}
    asked = (place for name, place in places.items() if name not in away and (place.id not in queued or name in silent))
    accounted = account(client, _numbers(asked))
    accounted |= _under_the_arrays_number({name: places[name] for name in silent}, accounted)
    found = {}
    for name, place in places.items():
        known = None if name in away else queued.get(place.id)
        if name in silent and place.id in accounted and known is not None:
            known = replace(known, exit=accounted[place.id].exit)
        found[name] = _condition(name, place, known, accounted.get(place.id), histories[name])
    return found


def _under_the_arrays_number(silent: Mapping[str, Place], accounted: Mapping[str, Known]) -> dict[str, Known]:
    """By id, what sacct says of elements that ended just now: for some seconds the last of an array has its number."""
    missing: dict[str, list[str]] = {}
    for place in silent.values():
        if place.id not in accounted:
            missing.setdefault(str(place.submission.number), []).append(place.id)
    return {ids[0]: accounted[number] for number, ids in missing.items() if len(ids) == 1 and number in accounted}


def _said(history: list[Start]) -> bool:
    """Whether the last start has left its verdict."""
    return bool(history) and bool(history[-1].ended.get("verdict"))


def _history(submissions: Submissions, name: str, place: Place) -> list[Start]:
    return [start for start in starts(submissions.attempts(name)) if start.id == place.id]


def _numbers(places: Iterable[Place]) -> list[int]:
    return sorted({place.submission.number for place in places if place.submission.number is not None})


@dataclass(frozen=True)
class Known:
    """What SLURM says of a job: its state, why it waits, its nodes, its exit code as sacct writes it."""

    state: str
    reason: str = ""
    node: str = ""
    exit: str = ""


def queue(client: Client, numbers: list[int]) -> dict[str, Known]:
    """What squeue knows, by id; jobs that ended some minutes ago are not among them."""
    if not numbers:
        return {}
    try:
        ids = ",".join(map(str, numbers))
        out = client.run("squeue", "-h", "-r", "-t", "all", "-j", ids, "-o", "%i|%T|%N|%r")
    except SlurmError as error:
        if "Invalid job id" in str(error):  # all of them are forgotten
            return {}
        raise
    rows = [line.split("|", 3) for line in out.splitlines()]
    return {row[0]: Known(row[1], row[3].strip("()"), row[2]) for row in rows}


def account(client: Client, numbers: list[int]) -> dict[str, Known]:
    """What sacct knows, by id; {} where there is no accounting."""
    if not numbers:
        return {}
    try:
        ids = ",".join(map(str, numbers))
        out = client.run("sacct", "-X", "-P", "-n", "-j", ids, "-o", "JobID,State,NodeList,ExitCode")
    except SlurmError:
        return {}
    rows = [line.split("|") for line in out.splitlines()]
    return {row[0]: Known(row[1].split()[0], "", row[2], row[3]) for row in rows if len(row) == 4 and row[1]}


def _condition(
    name: str, place: Place, known: Known | None, accounted: Known | None, history: list[Start]
) -> Condition:
    number = len(history)
    if known is not None and known.state in WAITING:
        return Condition(State.WAITING, place.id, REASONS.get(known.reason, known.reason), number)
    if known is not None and known.state in RUNNING:
        return Condition(State.RUNNING, place.id, known.node, number, known.node)
    if history and history[-1].ended.get("verdict") == Verdict.DONE.value:
        return Condition(State.DONE, place.id, "", number)
    if history and history[-1].ended.get("verdict") == Verdict.FAILED.value:
        return Condition(State.FAILED, place.id, history[-1].ended["reason"], number)
    return _silent(name, place, known or accounted, number)


def _silent(name: str, place: Place, known: Known | None, number: int) -> Condition:
    """Of a job that ended and did not say how."""
    if name in place.submission.cancelled:
        return Condition(State.CANCELLED, place.id, "cancelled by `study cancel`", number)
    if known is None:
        return Condition(State.CANCELLED, place.id, "neither squeue nor sacct knows it: cancelled as it waited", number)
    if known.state == "COMPLETED" and number:  # by its supervisor's own code; its word is on its way to this machine
        return Condition(State.DONE, place.id, "", number)
    if known.state == "CANCELLED":
        reason = "a job that it waited for failed, or somebody cancelled it" if not number else "cancelled from outside"
        return Condition(State.CANCELLED, place.id, reason, number)
    if known.state in ENDED:
        return Condition(State.FAILED, place.id, f"{known.state}: {ENDED[known.state]}", number)
    if known.exit.startswith(f"{NO_ROOM}:"):
        return Condition(State.FAILED, place.id, ROOM, number)
    if not number and ("JobLaunchFailure" in known.reason or known.exit == "0:53"):
        return Condition(State.FAILED, place.id, f"{known.state}: {NO_LOG}", number)
    if not number:
        reason = f"{known.state}: a line of `setup` or a module failed: see slurm/logs/{place.id}.out of the study"
        return Condition(State.FAILED, place.id, reason, number)
    reason = f"{known.state} {known.exit}: it ended without a word; see the end of its log"
    return Condition(State.FAILED, place.id, reason.strip(), number)
