"""Every path on every case, judged against float64 within the bounds of the judge."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from _pytest.mark import ParameterSet

from tests.kernels.cases import SPECS
from tests.kernels.judge import judge_backward, judge_forward
from tests.kernels.routes import label, module, routes

CPU = torch.device("cpu")
ROUTES = routes("cpu")
# Triton's interpreter takes a second a case: some of them here, more at night, all of them in tests.kernels.wide.
INTERPRETED = {
    torch.float16: (
        *("length 65", "width 88 to 40", "77 queries of 1 keys", "causal 31 of 65", "4 heads of 2, causal"),
        *("mixed, otherwise", "scale -1, causal", "edge of overflow, causal", "without tk", "without tq tk tv"),
    ),
    torch.float32: ("causal 31 of 65", "4 heads of 2, causal", "edge of overflow"),
}
AT_NIGHT = {
    torch.float16: (
        *("length 1", "width 24", "width 64 to 128", "width 256 to 64", "1 queries of 77 keys", "causal 33"),
        *("causal 65 of 31", "4 heads of 2", "mixed, width 72 to 40", "mixed, grouped", "scale 0.0", "sharp rows"),
        *("common key tangent 16, amplitude 12", "without tq", "without tv", "without tq tk"),
    ),
    torch.float32: (
        *("length 33", "width 40 to 24", "mixed", "scale -0.25", "common key tangent 16, amplitude 3"),
        "without tk tv",
    ),
}
# By day two types stand for the four in the gradients of the chunked path, and half of the cases for the interpreter's.
GRADIENTS = {"chunked": (torch.float64, torch.float16), "triton": (torch.float16, torch.float32)}
GRADIENT_CASES = ("width 88 to 40", "causal 31 of 65", "4 heads of 2, causal", "mixed, otherwise", "without tk")
# The backward kernels know a loss without out as another variant.
THROUGH = {torch.float16: ("out", "both"), torch.float32: ("tangent",)}


def pairs(gradients: bool) -> Iterable[ParameterSet]:
    """Routes with the cases that they run on the CPU, those left to the night marked."""
    for path, dtype in ROUTES:
        for name, spec in SPECS.items():
            # At the edge of overflow a float32 lse cannot tell the weights of equal keys apart: no backward is exact.
            if gradients and spec.group == "edge":
                continue
            day = path != "triton" or name in INTERPRETED[dtype]
            if gradients:
                day &= dtype in GRADIENTS[path] and (path != "triton" or name in GRADIENT_CASES)
            if day or path != "triton" or name in (*AT_NIGHT[dtype], *INTERPRETED[dtype]):
                yield pytest.param(path, dtype, name, marks=() if day else pytest.mark.nightly)


@pytest.mark.parametrize(("path", "dtype", "name"), [*pairs(gradients=False)], ids=label)
@pytest.mark.usefixtures("small_blocks")
def test_value_tangent_lse_and_mean(path: str, dtype: torch.dtype, name: str) -> None:
    """Each number within its own bound."""
    found = judge_forward(module(path), SPECS[name].draw(dtype, CPU))
    assert max(found.values()) <= 1, found


@pytest.mark.parametrize(("path", "dtype", "name"), [*pairs(gradients=True)], ids=label)
@pytest.mark.usefixtures("small_blocks")
def test_gradients(path: str, dtype: torch.dtype, name: str) -> None:
    """All gradients of <G, out> + <E, tangent>, of each term alone and of both, against autograd in float64."""
    through = ("out", "tangent", "both") if path != "triton" else THROUGH[dtype]
    found = judge_backward(module(path), SPECS[name].draw(dtype, CPU), through)
    assert max(found.values()) <= 1, found
