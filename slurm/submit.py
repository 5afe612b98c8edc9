"""Putting a graph on a cluster: what is there already is left alone, what failed is named, the rest is submitted."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from slurm.arrays import Planned, dependency, plan_arrays
from slurm.client import Client, SlurmError
from slurm.graph import JobGraph
from slurm.private import write_private
from slurm.resources import Request, Settings
from slurm.script import script
from slurm.states import Condition, State, conditions
from slurm.submissions import Place, Submission, Submissions

LARGEST_INDEX = 1000  # MaxArraySize is 1001 unless a site says otherwise


@dataclass
class Outcome:
    """What a submission came to, by names of jobs.

    submitted: with SLURM's id. active: waiting or running already. failed: with the reason. refused: with the failed
    job that it needs. orphans: jobs that SLURM still has and that the graph has no more. arrays: calls of sbatch.
    """

    submitted: dict[str, str] = field(default_factory=dict)
    active: dict[str, Condition] = field(default_factory=dict)
    failed: dict[str, Condition] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    orphans: dict[str, Condition] = field(default_factory=dict)
    arrays: int = 0


@dataclass(frozen=True)
class Order:
    """What is to be submitted: the graph, what each job asks for, and how jobs run on the cluster. study: a name."""

    study: str
    graph: JobGraph
    requests: Mapping[str, Request]
    settings: Settings


def submit(order: Order, submissions: Submissions, client: Client, *, retry_failed: bool) -> Outcome:
    """Submit what is neither active nor, unless `retry_failed`, failed.

    Two calls at once submit each job once. A job whose parent failed is refused. A job that waits for all others, the
    report, is submitted again where others were. Raises SlurmError; what was submitted before it is known to the next
    call.
    """
    submissions.prepare()
    with submissions.locked():
        recover(submissions, client)
        places = submissions.places()
        found = conditions(submissions, client, places)
        outcome = _sort(order.graph, found, retry_failed)
        names = _to_submit(order.graph, found, outcome)
        stale = [name for name in names if name in outcome.active]
        if stale:
            cancel_jobs(submissions, client, {name: places[name] for name in stale})
        active = {name: _spot(places[name]) for name in outcome.active if name not in stale}
        planned = plan_arrays(order.graph, names, active, order.requests, LARGEST_INDEX)
        for name in stale:
            del outcome.active[name]
        _submit_arrays(order, submissions, client, planned, outcome)
    return outcome


def dry_run(order: Order, submissions: Submissions) -> list[tuple[Planned, str]]:
    """The arrays that a first submission would consist of, with their batch scripts."""
    planned = plan_arrays(order.graph, order.graph.order, {}, order.requests, LARGEST_INDEX)
    numbers = {array: position for position, array in enumerate(planned, 1)}
    made = [_submission(order, f"{numbers[array]:04d}-{array.kind}", array, numbers) for array in planned]
    return [
        (array, script(each, array.request, order.settings, submissions, order.study))
        for array, each in zip(planned, made, strict=True)
    ]


def recover(submissions: Submissions, client: Client) -> None:
    """Find the jobs of submissions that were cut short between the call of sbatch and the note of its answer."""
    lost = {each.token: each for each in submissions.all() if each.number is None}
    if not lost:
        return
    known = client.run("squeue", "-h", "-t", "all", "-u", getpass.getuser(), "-o", "%F|%k")
    for line in known.splitlines():
        number, _, comment = line.partition("|")
        if comment in lost:
            submissions.accepted(lost.pop(comment), int(number))
    for token in lost:
        submissions.record(token).unlink()


def cancel(submissions: Submissions, client: Client) -> list[str]:
    """Stop all jobs that SLURM has; results stay. Returns their names."""
    submissions.prepare()
    with submissions.locked():
        recover(submissions, client)
        places = submissions.places()
        found = conditions(submissions, client, places)
        active = {name: places[name] for name, condition in found.items() if condition.active}
        cancel_jobs(submissions, client, active)
    return list(active)


def cancel_jobs(submissions: Submissions, client: Client, places: Mapping[str, Place]) -> None:
    """Note that these jobs are cancelled on request, then cancel them: a supervisor that ends requeues none of them."""
    if not places:
        return
    ids: list[str] = []
    for token in {place.submission.token for place in places.values()}:
        mine = {name: place for name, place in places.items() if place.submission.token == token}
        submission = next(iter(mine.values())).submission
        submissions.write(replace(submission, cancelled=tuple({*submission.cancelled, *mine})))
        whole = len(mine) == len(submission.jobs)
        ids += [str(submission.number)] if whole else [place.id for place in mine.values()]
    client.run("scancel", *ids)


def _sort(graph: JobGraph, found: Mapping[str, Condition], retry_failed: bool) -> Outcome:
    """The jobs of the graph that are active, failed or refused, and those that SLURM has beside it."""
    outcome = Outcome()
    for name, condition in found.items():
        if condition.active and name not in graph.jobs:
            outcome.orphans[name] = condition
        elif condition.active:
            outcome.active[name] = condition
        elif condition.state is State.FAILED and name in graph.jobs and not retry_failed and not graph.jobs[name].after:
            outcome.failed[name] = condition
    for name in graph.order:
        bad = [each for each in graph.jobs[name].parents if each in outcome.failed or each in outcome.refused]
        if bad and name not in outcome.active and name not in outcome.failed:
            outcome.refused[name] = f"needs {bad[0]}, which failed"
    return outcome


def _to_submit(graph: JobGraph, found: Mapping[str, Condition], outcome: Outcome) -> list[str]:
    """What is to be submitted: what is new, and what must wait for it though it is submitted already.

    What waits for others and is done is done again after new ones alone.
    """
    settled = {*outcome.active, *outcome.failed, *outcome.refused}
    new = [name for name in graph.order if name not in settled]
    waited = [name for name in new if graph.jobs[name].after and name in found and found[name].state is State.DONE]
    coming = {*new, *outcome.active} - {*waited}
    new = [name for name in new if name not in waited or not coming.isdisjoint(graph.jobs[name].after)]
    waits = [
        name
        for name, condition in outcome.active.items()
        if condition.state is State.WAITING and not {*new}.isdisjoint(graph.jobs[name].after)
    ]
    return [name for name in graph.order if name in {*new, *waits}]


def _spot(place: Place) -> tuple[int, int]:
    assert place.submission.number is not None, "of what SLURM took"
    return place.submission.number, place.index


def _submission(order: Order, token: str, array: Planned, numbers: Mapping[Planned, int]) -> Submission:
    request, settings = array.request, order.settings
    return Submission(
        token=token,
        kind=array.kind,
        jobs=dict(array.jobs),
        dependency=dependency(array, numbers),
        tasks=request.tasks,
        cpus_per_task=request.cpus_per_task,
        signal_seconds=settings.signal_seconds,
        minutes=request.minutes,
        container=settings.container,
        container_python=settings.container_python,
    )


def _submit_arrays(
    order: Order, submissions: Submissions, client: Client, planned: list[Planned], outcome: Outcome
) -> None:
    """Find what the cluster would refuse, then submit one array after the other, each noted before and after."""
    numbers: dict[Planned, int] = {}
    tested: set[Request] = set()
    for array in planned:
        if array.request not in tested:
            tested.add(array.request)
            alone = Planned(array.kind, array.request, array.jobs)
            _write_script(order, submissions, _submission(order, "test", alone, {}), array.request)
            client.test(submissions.script("test"))
    for array in planned:
        made = _submission(order, submissions.new_token(array.kind), array, numbers)
        made = replace(made, cluster=client.cluster)
        _write_script(order, submissions, made, array.request)
        submissions.write(made)
        try:
            number = client.submit(submissions.script(made.token))
        except SlurmError:
            if not _taken(submissions, client, made):
                submissions.record(made.token).unlink(missing_ok=True)
            raise
        known = submissions.accepted(made, number)
        numbers[array] = number
        outcome.arrays += 1
        outcome.submitted |= {job.name: Place(known, index).id for index, job in array.jobs.items()}


def _taken(submissions: Submissions, client: Client, made: Submission) -> bool:
    """Whether the controller may have taken a submission whose answer was lost: the record stays, to be recovered."""
    try:
        out = client.run("squeue", "-h", "-t", "all", "-u", getpass.getuser(), "-o", "%F|%k")
    except SlurmError:
        return True
    return any(line.partition("|")[2] == made.token for line in out.splitlines())


def _write_script(order: Order, submissions: Submissions, made: Submission, request: Request) -> None:
    write_private(submissions.script(made.token), script(made, request, order.settings, submissions, order.study))
