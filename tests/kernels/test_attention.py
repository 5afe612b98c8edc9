"""The public functions: defaults, autocast, and that all they are given reaches the path and comes back in order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.attention import attention, attention_jvp
from tests.kernels.cases import SPECS, Case, Spec
from tests.kernels.judge import Truth, Units, gradient_bounds, gradients, ratio
from tests.kernels.routes import label, routes

CPU = torch.device("cpu")
SOME = ("4 heads of 2, causal", "without tk")  # the second of the interpreted path at night
# plain and reference have no functions of their own to judge: they take all cases here.
PAIRS: list[Any] = [
    pytest.param(path, dtype, name, marks=pytest.mark.nightly if (path, name) == ("triton", SOME[1]) else ())
    for path, dtype in routes("cpu")
    for name in SOME
    if dtype == torch.float32
]
PAIRS += [("plain", dtype, name) for dtype in (torch.float16, torch.float32) for name in SPECS]
PAIRS += [("reference", torch.float64, name) for name in SPECS]
pytestmark = pytest.mark.usefixtures("small_blocks")


def assert_judged(case: Case, out: Tensor, tangent: Tensor) -> None:
    """Both within their bounds."""
    truth = Truth(case)
    assert ratio(out.detach(), truth.out, truth.off_out) <= 1
    assert ratio(tangent.detach(), truth.tangent, truth.off_tangent) <= 1


@pytest.mark.parametrize(("path", "dtype", "name"), PAIRS, ids=label)
def test_the_public_functions_pass_on_what_they_are_given(path: Any, dtype: torch.dtype, name: str) -> None:
    """Scale, mask, groups, absent tangents and cotangents reach the path and come back, in order."""
    case = SPECS[name].draw(dtype, CPU)
    truth, (grad, grad_tangent) = Truth(case), case.cotangents()
    leaves = [None if x is None else x.detach().requires_grad_() for x in case.six]
    q, k, v = (x for x in leaves[:3] if x is not None)
    options = {"scale": case.scale, "causal": case.causal}
    out = attention(q, k, v, **options, path=path)
    same, tangent = attention_jvp(q, k, v, *leaves[3:], **options, path=path)
    assert_judged(case, out, tangent)
    assert_judged(case, same, tangent)
    if SPECS[name].group == "edge":  # no gradient of a float32 lse is exact there
        return
    got: list[Tensor | None] = list(torch.autograd.grad(out, (q, k, v), grad))
    assert_within(case, got, gradients(case, grad, None), gradient_bounds(truth, grad, None))
    present = [x for x in leaves if x is not None]
    pairs = [(y, g) for y, g in ((same, grad), (tangent, grad_tangent)) if y.requires_grad]  # no tangents: a constant
    found = iter(torch.autograd.grad([y for y, _ in pairs], present, [g for _, g in pairs]))
    got = [None if x is None else next(found) for x in leaves]
    bounds = gradient_bounds(truth, grad, grad_tangent)
    assert_within(case, got, gradients(case, grad, grad_tangent), bounds)


def assert_within(case: Case, got: list[Tensor | None], want: list[Tensor], bound: list[Tensor]) -> None:
    """Every gradient that is there within its bound; rounding it to its type costs one unit more."""
    units = Units.of(case.q.dtype)
    for x, y, off in zip(got, want, bound, strict=False):
        assert x is None or ratio(x, y, off + (units.u + units.e) * y.abs() + units.tiny) <= 1


def test_the_scale_is_one_over_the_root_of_the_width_unless_given() -> None:
    """As the case has it."""
    case = SPECS["width 40 to 24"].draw(torch.float32, CPU)
    assert_judged(case, attention(case.q, case.k, case.v), attention_jvp(*case.six)[1])


@pytest.mark.parametrize(("keys", "path"), [(1, "plain"), (64, "plain"), (65, "chunked")])
def test_a_cpu_takes_the_path_for_its_number_of_keys(keys: int, path: Any) -> None:
    """Bit for bit the same as asking for it."""
    six = Spec("default", "default", 70, keys).draw(torch.float32, CPU).six
    for got, want in zip(attention_jvp(*six), attention_jvp(*six, path=path), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(attention(*six[:3]), attention(*six[:3], path=path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_rounds_inputs_and_nothing_else(dtype: torch.dtype) -> None:
    """Under autocast float32 inputs give what rounded inputs give, with logits and sums in float32; float64 stays."""
    case, rounded = (SPECS["sharp rows"].draw(x, CPU) for x in (torch.float32, dtype))
    double = SPECS["sharp rows"].draw(torch.float64, CPU)
    with torch.autocast("cpu", dtype):
        out, tangent = attention_jvp(*case.six, scale=case.scale)
        assert torch.equal(out, attention(case.q, case.k, case.v, scale=case.scale))
        assert_judged(double, *attention_jvp(*double.six, scale=double.scale))
    assert out.dtype == tangent.dtype == dtype
    assert_judged(rounded, out, tangent)
