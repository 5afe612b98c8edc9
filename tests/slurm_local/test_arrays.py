"""Jobs as arrays: which share one, what each waits for, and which index an element has."""

from __future__ import annotations

from pathlib import Path

from slurm.arrays import Planned, dependency, plan_arrays, ranges
from slurm.graph import Job, JobGraph
from slurm.resources import Request

SMALL, LARGE = Request(minutes=10), Request(minutes=20)


def job(name: str, *parents: str, after: tuple[str, ...] = ()) -> Job:
    return Job(name, ("true",), Path("log"), parents, after=after, kind=name.partition("-")[0])


def plan(jobs: list[Job], requests: dict[str, Request] | None = None, largest: int = 1000, **active: tuple[int, int]):
    graph = JobGraph([*jobs, *(job(name) for name in active)])
    asked = dict.fromkeys(graph.jobs, SMALL) | (requests or {})
    arrays = plan_arrays(graph, [each.name for each in jobs], active, asked, largest)
    numbers = {array: 100 + position for position, array in enumerate(arrays)}
    return [({index: each.name for index, each in array.jobs.items()}, dependency(array, numbers)) for array in arrays]


def test_each_student_waits_for_its_own_teacher() -> None:
    jobs = [job(f"t-{n}") for n in range(3)] + [job(f"s-{n}", f"t-{n}") for n in range(3)]
    jobs.append(job("report", after=tuple(each.name for each in jobs)))
    assert plan(jobs) == [
        ({0: "t-0", 1: "t-1", 2: "t-2"}, ""),
        ({0: "s-0", 1: "s-1", 2: "s-2"}, "aftercorr:100"),
        ({0: "report"}, "afterany:100:101"),
    ]


def test_a_student_of_a_teacher_that_waits_already_takes_its_index() -> None:
    jobs = [job("s-0", "told"), job("s-1", "new"), job("s-2"), job("new")]
    found = plan(jobs, told=(7, 5))
    assert ({5: "s-0"}, "aftercorr:7") in found
    assert ({0: "s-2"}, "") in found
    assert ({0: "new"}, "") in found
    assert any(names == {0: "s-1"} and words.startswith("aftercorr:10") for names, words in found)


def test_what_asks_for_more_is_another_array_and_large_ones_are_split() -> None:
    jobs = [job(f"t-{n}") for n in range(5)]
    assert [[*names] for names, _ in plan(jobs, {"t-4": LARGE}, largest=1)] == [[0, 1], [0, 1], [0]]


def test_two_of_one_kind_with_one_parent_are_two_arrays() -> None:
    found = plan([job("t"), job("s-a", "t"), job("s-b", "t")])
    assert found[1:] == [({0: "s-a"}, "aftercorr:100"), ({0: "s-b"}, "aftercorr:100")]


def test_several_parents_are_waited_for_as_whole_arrays() -> None:
    found = plan([job("t-0"), job("t-1"), job("u"), job("s", "t-0", "t-1", "u")])
    assert found[-1] == ({0: "s"}, "afterok:100:101")


def test_ranges() -> None:
    assert ranges([3, 0, 1, 7, 8, 9]) == "0-1,3,7-9"
    assert Planned("a", SMALL) != Planned("a", SMALL)
