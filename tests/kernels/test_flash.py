"""The path of flash-attn, against a stand-in with the interface that its documentation gives; tests/gpu takes itself.

The stand-in computes with torch on a CPU, in flash-attn's own layout and with its mask.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.attention import attention, attention_jvp
from kernels.flash_path import DTYPES

CALLS: list[dict[str, Any]] = []


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """q [batch, length, heads, width], k and v with heads that divide those of q."""
    assert (dropout_p, window_size, alibi_slopes) == (0.0, (-1, -1), None)
    CALLS.append({"heads": (q.shape[2], k.shape[2]), "deterministic": deterministic})
    logits = torch.einsum("bihd,bjhd->bhij", q.float(), k.repeat_interleave(q.shape[2] // k.shape[2], 2).float())
    logits = logits * (softmax_scale or q.shape[-1] ** -0.5)
    if causal:
        seen = torch.ones(logits.shape[-2:]).tril(k.shape[1] - q.shape[1])
        logits = logits.masked_fill(seen == 0, -torch.inf)
    values = v.repeat_interleave(q.shape[2] // v.shape[2], 2).float()
    return torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), values).to(q.dtype)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_func = flash_attn_func  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    CALLS.clear()


def inputs(dtype: torch.dtype = torch.float16, queries: int = 5, keys: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, queries, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("causal", "keys"), [(False, 7), (True, 5)])
def test_value_and_gradient_are_those_of_the_other_paths(
    package: None, dtype: torch.dtype, causal: bool, keys: int
) -> None:
    leaves, options = inputs(dtype, keys=keys), {"causal": causal, "scale": 0.7}
    ours, theirs = (attention(*leaves, path=path, **options) for path in ("reference", "flash"))
    assert CALLS == [{"heads": (4, 2), "deterministic": True}]
    tolerance = 4 * torch.finfo(dtype).eps
    grad = torch.ones_like(ours)
    found = [torch.autograd.grad(out, leaves, grad) for out in (ours, theirs)]
    for a, b in zip((ours, *found[0]), (theirs, *found[1]), strict=True):
        assert b.dtype == dtype
        torch.testing.assert_close(a, b, atol=tolerance * 4, rtol=tolerance)


def test_what_it_would_lose_is_refused(package: None) -> None:
    """Second derivatives and forward mode, which the package would drop, and a mask that it means otherwise."""
    leaves = inputs()
    out = attention(*leaves, path="flash")
    with pytest.raises(NotImplementedError, match="knows no second derivatives"):
        torch.autograd.grad(out.sum(), leaves[:1], create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda q: attention(q, *leaves[1:], path="flash"), (leaves[0],), (leaves[0],))
    with pytest.raises(NotImplementedError, match="knows no tangents"):
        attention_jvp(*leaves, *leaves, path="flash")
    with pytest.raises(NotImplementedError, match="5 queries and 7 keys means another mask"):
        attention(*inputs(keys=7), causal=True, path="flash")
    with pytest.raises(NotImplementedError, match="takes float16 or bfloat16"):
        attention(*inputs(torch.float32), path="flash")
    q, k, v = inputs()
    with pytest.raises(NotImplementedError, match="one width"):
        attention(q, k, v[..., :4], path="flash")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ImportError, match=r"needs flash-attn: pip install .*'trigscale\[flash\]'"):
        attention(*inputs(), path="flash")
