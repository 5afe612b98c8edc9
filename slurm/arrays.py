"""From the jobs of a graph to the arrays that a cluster starts, and what each of them waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from slurm.graph import Job, JobGraph
from slurm.resources import Request

# An array that is planned (its position among those planned) or one that SLURM knows (its number), and an index in it.
Spot: TypeAlias = "tuple[Planned | int, int]"


@dataclass(eq=False)
class Planned:
    """An array to be submitted: jobs that are alike, by index, and what they wait for.

    corresponding: the array whose element of the same index each element waits for (aftercorr). succeeded: arrays that
    must end well as a whole. ended: arrays that must have ended.
    """

    kind: str
    request: Request
    jobs: dict[int, Job] = field(default_factory=dict)
    corresponding: Planned | int | None = None
    succeeded: tuple[Planned | int, ...] = ()
    ended: tuple[Planned | int, ...] = ()


def plan_arrays(
    graph: JobGraph,
    names: Sequence[str],
    active: Mapping[str, tuple[int, int]],
    requests: Mapping[str, Request],
    largest_index: int,
) -> list[Planned]:
    """The jobs `names` of the graph as arrays, parents before children.

    active: number and index of the jobs that SLURM has and that have not ended. Jobs of one kind with one request form
    an array. Where each waits for one element of the same array, it takes that element's index, so that it waits for
    that one alone; no job waits for one element by name, since an element that is cancelled before it starts counts as
    done.
    """
    spots: dict[str, Spot] = dict(active)
    planned: list[Planned] = []
    order = {name: position for position, name in enumerate(graph.order)}
    for job in sorted((graph.jobs[name] for name in names), key=lambda job: order[job.name]):
        parents = [spots[parent] for parent in job.parents if parent in spots]
        ended = _unique(spots[name][0] for name in job.after if name in spots)
        corresponding = parents[0] if len(parents) == 1 else None
        wanted = Planned(
            job.kind,
            requests[job.name],
            corresponding=corresponding[0] if corresponding else None,
            succeeded=() if corresponding else _unique(array for array, _ in parents),
            ended=ended,
        )
        array, index = _place(planned, wanted, corresponding[1] if corresponding else None, largest_index)
        array.jobs[index] = job
        spots[job.name] = (array, index)
    return planned


def _place(planned: list[Planned], wanted: Planned, index: int | None, largest: int) -> tuple[Planned, int]:
    """An array like the wanted one with room at the index, else at its next; a new one where there is none."""
    for array in planned:
        if _alike(array, wanted):
            free = index if index is not None else max(array.jobs, default=-1) + 1
            if free not in array.jobs and free <= largest:
                return array, free
    planned.append(wanted)
    return wanted, index if index is not None else 0


def _alike(a: Planned, b: Planned) -> bool:
    return (a.kind, a.request, a.succeeded, a.ended) == (b.kind, b.request, b.succeeded, b.ended) and (
        a.corresponding is b.corresponding or a.corresponding == b.corresponding
    )


def dependency(array: Planned, numbers: Mapping[Planned, int]) -> str:
    """What sbatch takes for --dependency, "" where the array waits for nothing. numbers: of the arrays submitted."""

    def number(other: Planned | int) -> str:
        return str(other if isinstance(other, int) else numbers[other])

    parts = [f"aftercorr:{number(array.corresponding)}"] if array.corresponding is not None else []
    for word, others in (("afterok", array.succeeded), ("afterany", array.ended)):
        parts += [":".join([word, *map(number, others)])] if others else []
    return ",".join(parts)


def ranges(indices: Sequence[int]) -> str:
    """Indices as sbatch takes them: "0-3,7"."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _unique(arrays: Iterable[Planned | int]) -> tuple[Planned | int, ...]:
    found: list[Planned | int] = []
    for array in arrays:
        if not any(array is other or (isinstance(array, int) and array == other) for other in found):
            found.append(array)
    return tuple(found)
