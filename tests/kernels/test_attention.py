"""Attention and its tangent against float64 formulas and torch's own forward mode."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels import attention, attention_jvp, chunked

SHAPES = [(1, 1, 1, 1, 1, 1), (2, 3, 5, 7, 16, 16), (1, 2, 17, 33, 24, 8), (2, 1, 64, 64, 64, 64)]


def draw(shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """q, k, v, tq, tk, tv for (B, H, Nq, Nk, D, Dv)."""
    b, h, nq, nk, d, dv = shape
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, h, nq, d), (b, h, nk, d), (b, h, nk, dv)] * 2
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


@pytest.fixture(params=[1024, 8, 1])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Several lengths of a key block, so that the recurrence runs over many."""
    monkeypatch.setattr(chunked, "BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("block")
def test_chunked_equals_reference_in_float64(shape: tuple[int, ...]) -> None:
    """The online recurrence is exact whatever the block."""
    tensors = draw(shape)
    out, tangent = attention_jvp(*tensors)
    want, want_tangent = attention_jvp(*tensors, path="reference")
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent, want_tangent, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(attention(*tensors[:3]), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["chunked", "reference"])
def test_tangent_equals_forward_mode_of_the_plain_formula(path: str) -> None:
    """torch.func.jvp over softmax(q k^T) v is an independent derivation of the tangent."""
    q, k, v, tq, tk, tv = draw(SHAPES[2])

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT * 0.3, -1) @ v

    want = torch.func.jvp(plain, (q, k, v), (tq, tk, tv))[1]
    _, got = attention_jvp(q, k, v, tq, tk, tv, scale=0.3, path=path)  # type: ignore[arg-type]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("absent", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("path", ["chunked", "reference"])
def test_an_absent_tangent_is_a_zero_tangent(absent: tuple[int, ...], path: str) -> None:
    """None and zeros give the same."""
    tensors = draw(SHAPES[1])
    zeros = [torch.zeros_like(x) if i in absent else x for i, x in enumerate(tensors[3:])]
    nones = [None if i in absent else x for i, x in enumerate(tensors[3:])]
    _, want = attention_jvp(*tensors[:3], *zeros, path=path)  # type: ignore[arg-type]
    _, got = attention_jvp(*tensors[:3], *nones, path=path)  # type: ignore[arg-type]
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_stays_within_the_types_unit(dtype: torch.dtype) -> None:
    """|out - ref| <= 2 u P|v| and the matching majorant of the tangent, judged on the rounded inputs.

    For half inputs all sums are float32 and the one rounding of the result dominates: 2 u = eps. For float32 inputs
    the sums round like the inputs, over D terms.
    """
    q, k, v, tq, tk, tv = draw(SHAPES[3], dtype)
    out, tangent = attention_jvp(q, k, v, tq, tk, tv)
    wide = [x.double() for x in (q, k, v, tq, tk, tv)]
    want, want_tangent = attention_jvp(*wide, path="reference")
    scale = q.shape[-1] ** -0.5
    p = torch.softmax(scale * wide[0] @ wide[1].mT, -1)
    ds = scale * (wide[3] @ wide[1].mT + wide[0] @ wide[4].mT)
    mu = (p * ds).sum(-1, keepdim=True)
    unit = torch.finfo(dtype).eps * (q.shape[-1] if dtype == torch.float32 else 1)
    assert ((out - want).abs() <= unit * (p @ wide[2].abs())).all()
    majorant = (p * (ds.abs() + mu.abs())) @ wide[2].abs() + p @ wide[5].abs()
    assert ((tangent - want_tangent).abs() <= unit * majorant).all()
    assert out.dtype == tangent.dtype == dtype


@pytest.mark.usefixtures("block")
def test_gradients_through_value_and_tangent() -> None:
    """Reverse mode through both outputs, against finite differences."""
    tensors = [x.requires_grad_() for x in draw((1, 1, 3, 4, 2, 2))]
    assert torch.autograd.gradcheck(lambda *x: attention_jvp(*x), tensors)
    assert torch.autograd.gradcheck(attention, tensors[:3])


def test_the_stop_gradient_tangent_leaves_the_value_its_graph() -> None:
    """tangent_grad=False cuts the tangent out of the graph and changes no number."""
    tensors = [x.requires_grad_() for x in draw(SHAPES[1])]
    out, tangent = attention_jvp(*tensors, tangent_grad=False)
    want = attention_jvp(*tensors)
    assert out.requires_grad
    assert not tangent.requires_grad
    torch.testing.assert_close((out, tangent), want, rtol=0, atol=0)


def test_large_logits_do_not_overflow() -> None:
    """Logits of +-1e4 in half precision give finite results."""
    q, k, v, tq, tk, tv = draw((1, 1, 8, 8, 16, 16), torch.float16)
    out, tangent = attention_jvp(q * 100, k * 100, v, tq, tk, tv, scale=1.0)
    assert out.isfinite().all()
    assert tangent.isfinite().all()


def test_autocast_does_not_round_the_logits() -> None:
    """Under autocast the float32 result is the one without autocast."""
    q, k, v, *_ = draw(SHAPES[3], torch.float32)
    want = attention(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(q, k, v), want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), "attention takes"),
        (lambda q, k, v: (q.long(), k, v), "float16"),
        (lambda q, k, v: (q[..., :-1], k, v), "differ in batch, heads or width"),
        (lambda q, k, v: (q, k, v[:, :, :-1]), "differ in batch, heads or length"),
        (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), "zero keys"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str) -> None:
    """Each mistake is named."""
    with pytest.raises(ValueError, match=message):
        attention(*change(*draw(SHAPES[1])[:3]))


def test_a_tangent_of_another_shape_is_refused() -> None:
    """The tangent is named."""
    q, k, v, tq, tk, tv = draw(SHAPES[1])
    with pytest.raises(ValueError, match="tk has shape"):
        attention_jvp(q, k, v, tq, tk[:1], tv)
