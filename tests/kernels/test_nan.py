"""A NaN in an input reaches the results that depend on it and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import Case, Spec
from tests.kernels.judge import Path
from tests.kernels.routes import label, module, routes

ROUTES = [
    pytest.param(path, dtype, marks=pytest.mark.nightly if (path, dtype) == ("triton", torch.float32) else ())
    for path, dtype in routes("cpu")
    if dtype in (torch.float16, torch.float32)
]
SPEC = Spec("nan", "NaN", 40, 40, 16, 16, heads=2, groups=2)
ROW, COLUMN = 19, 5
pytestmark = [
    pytest.mark.usefixtures("small_blocks"),
    pytest.mark.parametrize(("path", "dtype"), ROUTES, ids=label),
    pytest.mark.parametrize("causal", [False, True], ids=["all keys", "causal"]),
]


def results(path: str, case: Case) -> tuple[Tensor, Tensor]:
    """out and tangent."""
    found: Path = module(path)
    return found.jvp(*case.six, case.scale, case.causal)[:2]


@cache
def clean_results(path: str, dtype: torch.dtype, causal: bool) -> tuple[Tensor, Tensor]:
    """Those without a NaN, of the same small blocks for every test."""
    return results(path, draw(dtype, causal))


def expect(path: str, case: Case, name: str, head: int, reached: Callable[[Tensor], Tensor], value: bool) -> None:
    """With NaN at [0, head, ROW, COLUMN] of an input, the tangent (and, if `value`, out) is NaN where it is reached
    and bit for bit the same elsewhere; where `value` is false, out is the same throughout.
    """
    x = getattr(case, name).clone()
    x[0, head, ROW, COLUMN] = torch.nan
    clean, spoilt = clean_results(path, x.dtype, case.causal), results(path, replace(case, **{name: x}))
    where = reached(torch.zeros_like(clean[0], dtype=torch.bool))
    for want, got, hit in zip(clean, spoilt, (where & torch.tensor(value), where), strict=True):
        assert torch.equal(got.isnan(), hit)
        assert torch.equal(got[~hit], want[~hit])


def draw(dtype: torch.dtype, causal: bool) -> Case:
    """The case in a type."""
    return replace(SPEC, causal=causal).draw(dtype, torch.device("cpu"))


@pytest.mark.parametrize("name", ["q", "tq"])
def test_a_query_reaches_its_row(path: str, dtype: torch.dtype, causal: bool, name: str) -> None:
    """Query ROW of head 1 and no other; a tangent leaves the value alone."""

    def reached(hit: Tensor) -> Tensor:
        hit[0, 1, ROW] = True
        return hit

    expect(path, draw(dtype, causal), name, 1, reached, name == "q")


@pytest.mark.parametrize("name", ["k", "tk"])
def test_a_key_reaches_the_rows_that_see_it(path: str, dtype: torch.dtype, causal: bool, name: str) -> None:
    """All rows of its head; under a causal mask those from the key on."""

    def reached(hit: Tensor) -> Tensor:
        hit[0, 1, ROW if causal else 0 :] = True
        return hit

    expect(path, draw(dtype, causal), name, 1, reached, name == "k")


@pytest.mark.parametrize("name", ["v", "tv"])
def test_a_value_reaches_its_column(path: str, dtype: torch.dtype, causal: bool, name: str) -> None:
    """One column of the rows that see the key. A hidden value has weight 0, and 0 NaN = NaN in a matrix product: rows
    in the key's own block may be reached too, as in torch's attention, which spoils the column of every row.
    """
    case = draw(dtype, causal)
    x = getattr(case, name).clone()
    x[0, 1, ROW, COLUMN] = torch.nan
    clean, spoilt = clean_results(path, x.dtype, case.causal), results(path, replace(case, **{name: x}))
    for want, got, hit in zip(clean, spoilt, (name == "v", True), strict=True):
        assert got[0, 1, ROW if causal else 0 :, COLUMN].isnan().all() == hit
        kept = torch.ones_like(got, dtype=torch.bool)
        kept[0, 1, :, COLUMN] = not hit
        assert torch.equal(got[kept], want[kept])


def test_a_scale_that_is_nan_leaves_no_number(path: str, dtype: torch.dtype, causal: bool) -> None:
    """As the formula has it; a library that multiplies by it may take it for 1."""
    case = replace(draw(dtype, causal), scale=torch.nan)
    assert all(x.isnan().all() for x in results(path, case))
