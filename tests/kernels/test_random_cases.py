"""Cases that nobody thought of: random shapes, layouts, scales and tangents, the same ones each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.cases import LAYOUTS, TANGENTS, Spec
from tests.kernels.judge import judge_backward, judge_forward
from tests.kernels.routes import label, module, routes

EXAMPLES = {"chunked": 30, "triton": 6}
ROUTES = [
    pytest.param(path, dtype, marks=pytest.mark.nightly if path == "triton" else ())
    for path, dtype in routes("cpu")
    if dtype != torch.bfloat16
]
# The fixture sets the same small blocks for every example.
SETTINGS = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A case of up to 50 queries of 50 keys."""
    lengths, widths, groups = st.integers(1, 50), st.integers(1, 48), draw(st.integers(1, 2))
    spec = Spec(
        "random",
        "",
        draw(lengths),
        draw(lengths),
        draw(widths),
        draw(widths),
        batch=draw(st.integers(1, 2)),
        heads=groups * draw(st.integers(1, 2)),
        groups=groups,
        scale=draw(st.one_of(st.none(), st.floats(-2, 2, width=16))),
        causal=draw(st.booleans()),
        absent=tuple(draw(st.sets(st.sampled_from(TANGENTS)))),
        layouts=tuple(draw(st.lists(st.sampled_from(LAYOUTS), max_size=6))),
    )
    return replace(spec, name=str(spec))


@pytest.mark.parametrize(("path", "dtype"), ROUTES, ids=label)
@pytest.mark.usefixtures("small_blocks")
def test_random_cases(path: str, dtype: torch.dtype) -> None:
    """Value, tangent, lse, mean and all gradients within their bounds."""

    @settings(SETTINGS, max_examples=EXAMPLES[path])
    @given(specs())
    def judge(spec: Spec) -> None:
        case = spec.draw(dtype, torch.device("cpu"))
        found = judge_forward(module(path), case) | judge_backward(module(path), case, ("out", "both"))
        assert max(found.values()) <= 1, found

    judge()
