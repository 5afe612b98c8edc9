"""What holds of attention and its tangent whatever the numbers: every path, each type that it has on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import SPECS, Case, Spec
from tests.kernels.judge import Path, Truth, ratio
from tests.kernels.routes import label, module, routes

CPU = torch.device("cpu")
Draw = Callable[..., Case]
pytestmark = pytest.mark.usefixtures("small_blocks")


ROUTES = [
    pytest.param(
        route,
        marks=pytest.mark.nightly if route == ("triton", torch.float32) else (),
        id=f"{route[0]}-{label(route[1])}",
    )
    for route in routes("cpu")
]


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> tuple[Path, torch.dtype]:
    """A path and a type."""
    return module(request.param[0]), request.param[1]


@pytest.fixture
def path(route: tuple[Path, torch.dtype]) -> Path:
    """The path's module."""
    return route[0]


@pytest.fixture
def draw(route: tuple[Path, torch.dtype]) -> Draw:
    """A case of 19 queries of 37 keys of width 24 in the route's type, with what is given changed."""
    return lambda **changes: replace(Spec("property", "property", 19, 37, 24, 24, heads=1, groups=1), **changes).draw(
        route[1], CPU
    )


def on_a_grid(x: Tensor | None, step: float = 0.125) -> Tensor | None:
    """Rounded to multiples of a step, so that sums of such numbers are exact."""
    return None if x is None else ((x.double() / step).round().clamp(-24, 24) * step).to(x.dtype)


def test_the_tangent_is_linear(path: Path, draw: Draw) -> None:
    """T(t + t') = T(t) + T(t') up to what each may be off by."""
    first, second = (draw(name=name) for name in ("property", "second direction"))
    cases = [replace(first, tq=on_a_grid(x.tq), tk=on_a_grid(x.tk), tv=on_a_grid(x.tv)) for x in (first, second)]
    sums = [x + y for x, y in zip(cases[0].six[3:], cases[1].six[3:], strict=True) if x is not None and y is not None]
    cases.append(replace(first, tq=sums[0], tk=sums[1], tv=sums[2]))
    one, two, both = (run(path, x)[1].double() for x in cases)
    assert ratio(one + two, both, sum((Truth(x).off_tangent for x in cases), torch.zeros(()))) <= 1


@pytest.mark.parametrize("factor", [-1.0, 0.5])
def test_the_tangent_scales_with_its_direction(path: Path, draw: Draw, factor: float) -> None:
    """Bit for bit under a change of sign; under a power of two unless numbers fall below float16's normal range."""
    case = draw()
    scaled = replace(case, **{n: factor * getattr(case, n) for n in ("tq", "tk", "tv")})
    out, tangent, lse, mean = run(path, case)
    got = run(path, scaled)
    assert torch.equal(got[0], out)
    assert torch.equal(got[2], lse)
    if factor == -1 or case.q.dtype != torch.float16:
        assert torch.equal(got[1], factor * tangent)
        assert torch.equal(got[3], factor * mean)
    else:
        bound = Truth(scaled).off_tangent + abs(factor) * Truth(case).off_tangent
        assert ratio(got[1], factor * tangent.double(), bound) <= 1


@pytest.mark.parametrize("absent", ["tq", "tk", "tv", "tq tk", "tk tv", "tq tv", "tq tk tv"])
def test_an_absent_tangent_is_a_zero_tangent(path: Path, draw: Draw, absent: str) -> None:
    """Value and lse bit for bit, tangent and mean within their bounds; nothing present, nothing found."""
    case = draw()
    names = absent.split()
    nones = replace(case, **dict.fromkeys(names))
    zeros = replace(case, **{n: torch.zeros_like(getattr(case, n)) for n in names})
    got, want, truth = run(path, nones), run(path, zeros), Truth(nones)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[2], want[2])
    assert ratio(got[1], want[1].double(), 2 * truth.off_tangent) <= 1
    assert ratio(got[3], want[3].double(), 2 * truth.off_mean) <= 1
    if len(names) == 3:
        assert not got[1].any()
        assert not got[3].any()


def test_twice_the_same_is_the_same(path: Path, draw: Draw) -> None:
    """Bit for bit, gradients included."""
    case = draw(causal=True)
    for x, y in zip(everything(path, case), everything(path, case), strict=True):
        assert torch.equal(x, y)


def test_inputs_stay_and_outputs_are_new(path: Path, draw: Draw) -> None:
    """No input changes, nor the storage it was cut from; outputs are contiguous, own their memory, have their type."""
    case = draw(layouts=("poisoned", "length last", "packed"))
    inputs = [x for x in (*case.six, *case.cotangents()) if x is not None]
    homes = [memory(x).clone() for x in inputs]
    strides = [x.stride() for x in inputs]
    results = everything(path, case)
    assert all(torch.equal(memory(x), home) for x, home in zip(inputs, homes, strict=True))
    assert [x.stride() for x in inputs] == strides
    pointers = {x.untyped_storage().data_ptr() for x in inputs}
    statistic = torch.float64 if case.q.dtype == torch.float64 else torch.float32
    for x in results:
        assert x.is_contiguous()
        assert x.untyped_storage().data_ptr() not in pointers
        assert x.dtype == (statistic if x.ndim == 3 else case.q.dtype)


def test_heads_and_batches_do_not_see_each_other(path: Path, draw: Draw) -> None:
    """Each head of each batch alone gives what it gives among the others, gradients too."""
    case = draw(batch=2, heads=4, groups=2, layouts=("heads last", "poisoned"))
    whole, truth = run(path, case), Truth(case)
    for b, h in ((0, 3), (1, 1)):
        q, k, v, tq, tk, tv = (
            None if x is None else x[b : b + 1, h // s : h // s + 1]
            for x, s in zip(case.six, (1, 2, 2) * 2, strict=True)
        )
        assert q is not None and k is not None and v is not None  # noqa: PT018
        alone = run(path, replace(case, q=q, k=k, v=v, tq=tq, tk=tk, tv=tv))
        assert ratio(alone[0][0, 0], whole[0][b, h].double(), truth.off_out[b, h]) <= 1
        assert ratio(alone[1][0, 0], whole[1][b, h].double(), truth.off_tangent[b, h]) <= 1


def test_a_vector_added_to_all_keys_or_their_tangents_changes_nothing(path: Path, draw: Draw) -> None:
    """A row of logits, or of their tangents, moves by a constant: softmax does not see it."""
    case = draw()
    case = replace(case, q=on_a_grid(case.q), k=on_a_grid(case.k), tk=on_a_grid(case.tk))
    vector = on_a_grid(torch.linspace(-2, 2, 24))
    assert case.tk is not None
    assert vector is not None
    vector = vector.to(case.q.dtype)
    out, tangent, *_ = run(path, case)
    for moved in (replace(case, k=case.k + vector), replace(case, tk=case.tk + vector)):
        got, truth, before = run(path, moved), Truth(moved), Truth(case)
        assert ratio(got[0], out.double(), before.off_out + truth.off_out) <= 1
        assert ratio(got[1], tangent.double(), before.off_tangent + truth.off_tangent) <= 1


def test_keys_in_another_order_change_nothing(path: Path, draw: Draw) -> None:
    """Within the bounds of both orders; the gradients come in the other order too."""
    case = draw()
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    k, v, tk, tv = (x[:, :, order] for x in case.six if x is not None and x.shape[2] == 37)
    moved = replace(case, k=k, v=v, tk=tk, tv=tv)
    truth = Truth(case)
    for x, y, bound in zip(run(path, case)[:2], run(path, moved)[:2], (truth.off_out, truth.off_tangent), strict=True):
        assert ratio(y, x.double(), 2 * bound) <= 1


def test_nothing_to_attend_from_gives_nothing(path: Path, draw: Draw) -> None:
    """No batch, no head or no query: empty results of the right shapes, gradients of zero."""
    for empty in ({"batch": 0}, {"heads": 0}, {"nq": 0}):
        case = draw(**empty, causal=True)
        out, tangent, lse, mean = run(path, case)
        assert out.shape == tangent.shape == (*case.q.shape[:3], 24)
        assert lse.shape == mean.shape == case.q.shape[:3]
        gradients = everything(path, case)[-6:]
        assert [x.shape for x in gradients] == [x.shape for x in case.six if x is not None]
        assert not any(x.any() for x in gradients)


def test_the_tangent_is_the_difference_quotient_of_forward() -> None:
    """Central differences in float64, of the chunked path: no formula of the tangent is used."""
    chunked, step = module("chunked"), 1e-5
    for spec in (SPECS["length 13"], SPECS["causal 31 of 65"], SPECS["4 heads of 2"]):
        case = spec.draw(torch.float64, CPU)
        pairs = [(x, t) for x, t in zip(case.six[:3], case.six[3:], strict=True) if x is not None and t is not None]
        moved = [[x + sign * step * t for x, t in pairs] for sign in (1, -1)]
        ahead, behind = (chunked.forward(q, k, v, case.scale, case.causal) for q, k, v in moved)
        _, tangent, _, mean = run(chunked, case)
        torch.testing.assert_close((ahead[0] - behind[0]) / (2 * step), tangent, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close((ahead[1] - behind[1]) / (2 * step), mean, rtol=1e-6, atol=1e-8)


def memory(x: Tensor) -> Tensor:
    """All bytes of the storage that a tensor is cut from."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def run(path: Path, case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, tangent, lse, mean."""
    return path.jvp(*case.six, case.scale, case.causal)


def everything(path: Path, case: Case) -> list[Tensor]:
    """The results of all four functions; the gradients of jvp_backward come last."""
    (grad, grad_tangent), options = case.cotangents(), (case.scale, case.causal)
    out, lse = path.forward(*case.six[:3], *options)
    results = [out, lse, *path.backward(grad, *case.six[:3], out, lse, *options)]
    found = run(path, case)
    out, tangent, lse, mean = found
    six = path.jvp_backward(grad, grad_tangent, *case.six, out, tangent, lse, mean, *options)
    return [*results, *found, *(x for x in six if x is not None)]
