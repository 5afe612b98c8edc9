"""The chunked path, called directly, against plain formulas in float64; gradients against autograd of those."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from kernels import chunked, chunked_tiles

DOUBLE = torch.float64
Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
# Rounding unit of the result; sums are kept in float32, so half inputs cost one rounding more.
UNITS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, DOUBLE: 2.0**-53}
# B, H, G, Nq, Nk, D, Dv
SHAPES = [
    (2, 4, 2, 7, 9, 4, 5),
    (1, 3, 3, 9, 5, 4, 4),
    (2, 6, 1, 10, 10, 3, 6),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 2, 3, 20, 8, 8),
]
BLOCKS = [(1, 1, 1), (3, 3, 5), (3, 8, 40), (8, 8, 1), (1024, 1024, 2**18)]  # ROWS, KEYS, LOGITS


@pytest.fixture(params=BLOCKS, ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    for name, size in zip(("ROWS", "KEYS", "LOGITS"), request.param, strict=True):
        monkeypatch.setattr(chunked_tiles, name, size)
    return request.param


def draw(shape: tuple[int, ...], dtype: torch.dtype = DOUBLE, seed: int = 0) -> Six:
    """q, k, v and their tangents."""
    generator = torch.Generator().manual_seed(seed)
    b, h, g, nq, nk, d, dv = shape
    sizes = [(b, h, nq, d), (b, g, nk, d), (b, g, nk, dv)]
    q, k, v, tq, tk, tv = (torch.randn(x, generator=generator, dtype=DOUBLE).to(dtype) for x in (*sizes, *sizes))
    return q, k, v, tq, tk, tv


def draw_like_out(shape: tuple[int, ...], seed: int) -> Tensor:
    return draw((*shape[:4], 1, shape[6], 1), seed=seed)[0]


def plain(q: Tensor, k: Tensor, v: Tensor, tq: Tensor, tk: Tensor, tv: Tensor, scale: float, causal: bool) -> Six:
    """out, tangent, lse, mean, P and dS by the formulas in float64, differentiable."""
    q, k, v, tq, tk, tv = (x.double() for x in (q, k, v, tq, tk, tv))
    k, v, tk, tv = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v, tk, tv))
    s, ds = scale * q @ k.mT, scale * (tq @ k.mT + q @ tk.mT)
    if causal:
        unseen = torch.ones(s.shape[2:], dtype=torch.bool).triu(1)
        s, ds = s.masked_fill(unseen, -torch.inf), ds.masked_fill(unseen, 0)
    p = s.softmax(-1)
    mean = (p * ds).sum(-1)
    tangent = (p * (ds - mean[..., None])) @ v + p @ tv
    return p @ v, tangent, s.logsumexp(-1), mean, p, ds


def close(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert actual is not None
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_for_every_choice_of_tangents(
    blocks: tuple[int, int, int], shape: tuple[int, ...], causal: bool
) -> None:
    q, k, v, *tangents = draw(shape)
    g, e = draw_like_out(shape, 1), draw_like_out(shape, 2)
    for chosen in product((True, False), repeat=3):
        tq, tk, tv = (x if use else None for x, use in zip(tangents, chosen, strict=True))
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        leaves += [(x * use).requires_grad_() for x, use in zip(tangents, chosen, strict=True)]
        wanted = plain(*leaves, scale=0.7, causal=causal)
        mine = chunked.jvp(q, k, v, tq, tk, tv, 0.7, causal)
        for actual, expected in zip(mine, wanted[:4], strict=True):
            close(actual, expected.detach())
        for grad in (g, None):
            loss = (wanted[1] * e).sum() + (0 if grad is None else (wanted[0] * grad).sum())
            expected = torch.autograd.grad(loss, leaves, retain_graph=True)
            actual = chunked.jvp_backward(grad, e, q, k, v, tq, tk, tv, *mine, 0.7, causal)
            for x, y, use in zip(actual, expected, (True, True, True, *chosen), strict=True):
                assert (x is not None) == use
                if use:
                    close(x, y)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_its_gradients(blocks: tuple[int, int, int], shape: tuple[int, ...], causal: bool) -> None:
    q, k, v, *tangents = draw(shape)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    expected, _, expected_lse, *_ = plain(*leaves, *tangents, scale=-0.4, causal=causal)
    out, lse = chunked.forward(q, k, v, -0.4, causal)
    close(out, expected.detach())
    close(lse, expected_lse.detach())
    grad = draw_like_out(shape, 1)
    gradients = chunked.backward(grad, q, k, v, out, lse, -0.4, causal)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, leaves, grad), strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, DOUBLE], ids=str)
def test_types_and_the_bounds_of_their_rounding(blocks: tuple[int, int, int], dtype: torch.dtype) -> None:
    inputs = draw((1, 2, 2, 19, 24, 16, 16), dtype)
    out, tangent, lse, mean = chunked.jvp(*inputs, 0.25, False)
    expected, expected_tangent, expected_lse, expected_mean, p, ds = plain(*inputs, 0.25, False)
    v, tv = (inputs[i].double().abs() for i in (2, 5))
    unit = UNITS[dtype] * (2 if dtype.itemsize == 2 else 30)  # in float32 the sums round as well: some 40 terms
    assert out.dtype == tangent.dtype == dtype
    assert lse.dtype == mean.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert ((out - expected).abs() <= unit * p @ v).all()
    assert (
        (tangent - expected_tangent).abs() <= unit * ((p * (ds.abs() + expected_mean.abs()[..., None])) @ v + p @ tv)
    ).all()
    for actual, wanted in ((lse, expected_lse), (mean, expected_mean)):
        close(actual, wanted, 100 * min(UNITS[dtype], UNITS[torch.float32]))
    gradients = chunked.jvp_backward(out, tangent, *inputs, out, tangent, lse, mean, 0.25, False)
    assert [x is not None and (x.dtype, x.shape) for x in gradients] == [(dtype, x.shape) for x in inputs]


def test_any_strides_and_inputs_are_left_alone(blocks: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 9, 3, 2, 8, generator=generator, dtype=DOUBLE)  # as a fused projection leaves it
    q, k, v = (x.transpose(1, 2) for x in (*whole.unbind(3), whole[:, :, :, 0, ::2]))
    tq = torch.randn(1, 1, 1, 8, generator=generator, dtype=DOUBLE).expand(q.shape)
    tk = torch.randn(2, 3, 8, 9, generator=generator, dtype=DOUBLE).mT
    tv = torch.randn(2, 3, 1, 1, generator=generator, dtype=DOUBLE).expand(v.shape)
    before = [x.clone() for x in (q, k, v, tq, tk, tv)]
    mine = chunked.jvp(q, k, v, tq, tk, tv, 0.5, True)
    grad = mine[0].mT.contiguous().mT
    gradients = chunked.jvp_backward(grad, mine[1], q, k, v, tq, tk, tv, *mine, 0.5, True)
    dq, dk, dv, dtq, dtk, dtv = (x.contiguous() for x in before)
    again = chunked.jvp(dq, dk, dv, dtq, dtk, dtv, 0.5, True)
    expected = chunked.jvp_backward(again[0], again[1], dq, dk, dv, dtq, dtk, dtv, *again, 0.5, True)
    for actual, wanted in zip((*mine, *gradients), (*again, *expected), strict=True):
        assert wanted is not None
        close(actual, wanted)
    close(mine[1], plain(q, k, v, tq, tk, tv, 0.5, True)[1])
    assert all(torch.equal(x, y) for x, y in zip((q, k, v, tq, tk, tv), before, strict=True))
    assert not {x.data_ptr() for x in mine} & {x.data_ptr() for x in (q, k, v, tq, tk, tv)}


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extreme_logits_in_float32(blocks: tuple[int, int, int], scale: float) -> None:
    """Rows won by one key or shared by several: a weight is right to the rounding of its logit."""
    q, k, v, tq, tk, tv = (x.float() for x in draw((1, 2, 2, 6, 11, 3, 4)))
    inputs = q.sign(), k.sign(), v, tq, tk, tv
    out, tangent, lse, mean = chunked.jvp(*inputs, scale, False)
    expected = plain(*inputs, scale, False)
    size = max(1.0, abs(scale))
    weight = 4 * 3 * size * UNITS[torch.float32]  # four roundings of a logit of up to 3 * scale
    close(out, expected[0], 2 * weight + 1e-6)
    close(lse, expected[2], 1e-6)
    close(mean / size, expected[3] / size, 10 * weight + 1e-6)
    close(tangent / size, expected[1] / size, 20 * weight + 1e-6)


def test_a_block_that_weighs_little_keeps_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Huge values under keys of weight e^-15 keep their digits, in whichever block they come."""
    monkeypatch.setattr(chunked_tiles, "KEYS", 2)
    monkeypatch.setattr(chunked_tiles, "ROWS", 2)
    q, k, v, tq, tk, tv = (x.float() for x in draw((1, 1, 1, 2, 6, 1, 3)))
    q, tq = torch.ones_like(q), torch.ones_like(tq)
    for faint in (slice(0, 2), slice(2, 4), slice(4, 6)):
        inputs = q, k.clone(), v.clone(), tq, tk, tv
        inputs[1][:, :, faint], inputs[2][:, :, faint] = -15.0, 1e9
        out, tangent, *_ = chunked.jvp(*inputs, 1.0, False)
        expected = plain(*inputs, 1.0, False)
        close(out, expected[0], 1e-5)
        close(tangent, expected[1], 1e-5)


def test_what_the_tangents_of_the_logits_have_in_common_costs_no_digits() -> None:
    q, k, v, tq, tk, tv = (x.float() for x in draw((1, 2, 2, 32, 64, 16, 16)))
    inputs = q, k, v + 10, tq, tk + 100 * torch.randn(16, generator=torch.Generator().manual_seed(3)), tv
    tangent, expected = chunked.jvp(*inputs, 0.25, False)[1], plain(*inputs, 0.25, False)[1]
    assert (tangent - expected).norm() / expected.norm() < 2e-5


def test_nan_stays_in_its_row_and_head(blocks: tuple[int, int, int]) -> None:
    inputs = draw((2, 4, 2, 7, 9, 4, 5))
    inputs[0][0, 1, 3, 0] = torch.nan
    for x in chunked.jvp(*inputs, 0.5, False):
        bad = x.isnan().any(-1) if x.ndim == 4 else x.isnan()
        assert bad.nonzero().tolist() == [[0, 1, 3]]
    inputs = draw((2, 4, 2, 7, 9, 4, 5))
    inputs[5][1, 1, 2, 4] = torch.nan
    out, tangent, lse, mean = chunked.jvp(*inputs, 0.5, False)
    assert tangent[1, 2:, :, 4].isnan().all()
    assert tangent.isnan().sum() == 2 * 7
    assert all(x.isfinite().all() for x in (out, lse, mean))


@pytest.mark.parametrize("index", [1, 4])
def test_nan_in_a_masked_key_stays_unseen(blocks: tuple[int, int, int], index: int) -> None:
    inputs = draw((1, 2, 1, 9, 9, 4, 5))
    inputs[index][:, :, 5, 0] = torch.nan
    for x in chunked.jvp(*inputs, 0.5, True):
        assert x[:, :, :5].isfinite().all()
        if index == 1:
            assert x[:, :, 5:].isnan().all()


@pytest.mark.parametrize("shape", [(2, 4, 2, 0, 3, 4, 5), (0, 4, 2, 3, 3, 4, 5), (2, 0, 2, 3, 3, 4, 5)], ids=str)
def test_nothing_asked_for(shape: tuple[int, ...]) -> None:
    inputs = draw(shape)
    mine = chunked.jvp(*inputs, 0.5, True)
    assert [x.shape for x in mine] == [(*shape[:2], shape[3], 5)] * 2 + [(*shape[:2], shape[3])] * 2
    gradients = chunked.jvp_backward(mine[0], mine[1], *inputs, *mine, 0.5, True)
    for gradient, x in zip(gradients, inputs, strict=True):
        close(gradient, torch.zeros_like(x))


def test_no_buffer_is_larger_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("ROWS", 16), ("KEYS", 16), ("LOGITS", 64)):
        monkeypatch.setattr(chunked_tiles, name, size)
    inputs = draw((1, 4, 1, 48, 48, 2, 2))
    with torch.profiler.profile(profile_memory=True) as profile:
        mine = chunked.jvp(*inputs, 0.5, False)
        chunked.jvp_backward(mine[0], mine[1], *inputs, *mine, 0.5, False)
    largest = max(event.cpu_memory_usage for event in profile.events() or [])
    assert largest == 4 * 16 * 16 * 8  # four of them in jvp_backward, for ROWS rows of any head


def test_many_threads_share_larger_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, *_ = draw((64, 1, 1, 512, 512, 1, 1))
    assert len(chunked_tiles.Tiling.of(q, k, False).head_spans()) == 16
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert len(chunked_tiles.Tiling.of(q, k, False).head_spans()) == 4
