"""JobGraph: what it refuses, and its priorities against brute force."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.graph import GraphError, Job, JobGraph


def job(name: str, *parents: str, cost: float = 1.0) -> Job:
    return Job(name, ("true",), Path("log.txt"), parents, cost)


DIAMOND = (job("top", cost=1), job("left", "top", cost=5), job("right", "top", cost=2), job("end", "left", "right"))


def test_priority_is_the_cost_of_the_longest_chain_below() -> None:
    assert JobGraph(DIAMOND).critical_path() == {"top": 7, "left": 6, "right": 3, "end": 1}


def test_descendants_are_all_that_need_a_job_parents_first() -> None:
    graph = JobGraph((*DIAMOND, job("apart"), job("last", "end", "apart")))
    assert set(graph.descendants("top")) == {"left", "right", "end", "last"}
    assert graph.descendants("left") == ("end", "last")
    assert graph.descendants("last") == ()


def test_jobs_keep_their_order() -> None:
    assert list(JobGraph(reversed(DIAMOND)).jobs) == ["end", "right", "left", "top"]


@pytest.mark.parametrize(
    ("jobs", "names"),
    [
        ([job("a b"), job("c"), job("a b")], ["'a b'"]),
        ([job("a"), job("b", "nobody")], ["'b'", "'nobody'"]),
        ([job("a", "a")], ["'a'"]),
        ([job("root"), job("x", "root", "z"), job("y", "x"), job("z", "y")], ["'x'", "'y'", "'z'"]),
        ([Job("a", (), Path("log.txt"))], ["'a'", "empty command"]),
        ([job("a", cost=-1)], ["'a'", "-1"]),
        ([job("a", cost=math.nan)], ["'a'", "nan"]),
    ],
    ids=["duplicate", "unknown parent", "self", "cycle", "empty command", "negative cost", "nan cost"],
)
def test_refuses_naming_the_jobs_at_fault(jobs: list[Job], names: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        JobGraph(jobs)
    assert all(name in str(caught.value) for name in names)
    assert "'root'" not in str(caught.value)


@st.composite
def acyclic_jobs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for index in range(draw(st.integers(1, 7))):
        parents = [other.name for other in jobs if draw(st.booleans())]
        jobs.append(job(str(index), *parents, cost=draw(st.integers(0, 9))))
    return draw(st.permutations(jobs))


@given(acyclic_jobs())
def test_priority_agrees_with_all_paths(jobs: list[Job]) -> None:
    def longest(name: str) -> float:
        cost = next(job.cost for job in jobs if job.name == name)
        return cost + max((longest(job.name) for job in jobs if name in job.parents), default=0)

    assert JobGraph(jobs).critical_path() == {job.name: longest(job.name) for job in jobs}
