"""Every path and type on the GPU on the cases of tests/kernels, in several processes: compiling takes the time."""

from __future__ import annotations

import os

import pytest
import torch

from tests.kernels.cases import GROUPS, SPECS
from tests.kernels.routes import label, routes
from tests.kernels.wide import Task, judge_all, worst

pytestmark = pytest.mark.gpu
ROUTES = routes("cuda")
# Each width, layout and set of tangents is some kernels more to compile: bfloat16 takes them all, other types these.
COSTLY = ("width", "layout", "absent")
FEW = (
    "width 24",
    "width 64 to 128",
    "width 192",
    "mixed, width 72 to 40",
    "poisoned padding",
    "all length last",
    "without tk tv",
)
# Cases whose kernels are compiled anyway, so that more blocks of a real launch cost little.
LARGER = ("length", "cross", "causal", "grouped", "scale", "centring")


def tasks() -> list[Task]:
    """All cases, and some again at five times the lengths."""
    found: list[Task] = []
    for path, dtype in ROUTES:
        few = path == "triton" and dtype != torch.bfloat16
        specs = [s for s in SPECS.values() if s.group not in COSTLY or not few or s.name in FEW]
        found += [(path, dtype, s.name, False) for s in specs]
        found += [(path, dtype, s.name, True) for s in specs if s.group in LARGER]
    return found


@pytest.fixture(scope="module")
def results() -> dict[Task, dict[str, float | str]]:
    """The ratios of all cases."""
    return judge_all(tasks(), max(1, min(14, (os.cpu_count() or 1) - 1)))


@pytest.mark.parametrize(("path", "dtype"), ROUTES, ids=label)
@pytest.mark.parametrize("group", GROUPS)
def test_every_number_is_within_its_bound(
    path: str, dtype: torch.dtype, group: str, results: dict[Task, dict[str, float | str]]
) -> None:
    """Value, tangent, lse, mean and all gradients."""
    those = {t: r for t, r in results.items() if t[:2] == (path, dtype) and SPECS[t[2]].group == group}
    assert those
    assert {f"{t[2]}{', larger' * t[3]}": r for t, r in those.items() if worst(r) > 1} == {}
