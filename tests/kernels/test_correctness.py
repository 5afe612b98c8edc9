"""Every path on every case, judged against float64 within the bounds of the judge."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import SPECS
from tests.kernels.judge import judge_backward, judge_forward
from tests.kernels.routes import label, module, routes

CPU = torch.device("cpu")
ROUTES = routes("cpu")
# Triton's interpreter takes a second a case: some of them here, all of them in tests.kernels.wide.
INTERPRETED = {
    torch.float16: (
        *("length 1", "length 65", "width 24", "width 88 to 40", "width 64 to 128", "width 256 to 64"),
        *("1 queries of 77 keys", "77 queries of 1 keys", "causal 33", "causal 31 of 65", "causal 65 of 31"),
        *("4 heads of 2", "4 heads of 2, causal", "mixed, width 72 to 40", "mixed, otherwise", "mixed, grouped"),
        *("scale 0.0", "scale -1, causal", "sharp rows", "edge of overflow, causal", "without tq", "without tk"),
        *("common key tangent 16, amplitude 12", "without tv", "without tq tk", "without tq tk tv"),
    ),
    torch.float32: (
        *("length 33", "width 40 to 24", "causal 31 of 65", "4 heads of 2, causal", "mixed", "scale -0.25"),
        *("edge of overflow", "common key tangent 16, amplitude 3", "without tk tv"),
    ),
}
# The backward kernels know a loss without out as another variant.
THROUGH = {torch.float16: ("out", "both"), torch.float32: ("tangent",)}


def chosen(path: str, dtype: torch.dtype, name: str) -> bool:
    """Whether a route runs a case on the CPU."""
    return path != "triton" or name in INTERPRETED[dtype]


PAIRS = [(*route, name) for route in ROUTES for name in SPECS if chosen(*route, name)]


@pytest.mark.parametrize(("path", "dtype", "name"), PAIRS, ids=label)
@pytest.mark.usefixtures("small_blocks")
def test_value_tangent_lse_and_mean(path: str, dtype: torch.dtype, name: str) -> None:
    """Each number within its own bound."""
    found = judge_forward(module(path), SPECS[name].draw(dtype, CPU))
    assert max(found.values()) <= 1, found


# At the edge of overflow a float32 lse cannot tell the weights of equal keys apart: no backward from it is exact.
@pytest.mark.parametrize(("path", "dtype", "name"), [p for p in PAIRS if SPECS[p[2]].group != "edge"], ids=label)
@pytest.mark.usefixtures("small_blocks")
def test_gradients(path: str, dtype: torch.dtype, name: str) -> None:
    """All gradients of <G, out> + <E, tangent>, of each term alone and of both, against autograd in float64."""
    through = ("out", "tangent", "both") if path != "triton" else THROUGH[dtype]
    found = judge_backward(module(path), SPECS[name].draw(dtype, CPU), through)
    assert max(found.values()) <= 1, found
