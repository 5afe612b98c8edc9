"""Attention, its Jacobian-vector product and their gradients tile by tile, in PyTorch operations on any device.

A tile is a block of query rows by a block of keys, for a few heads. Each block of keys gives attention over itself
alone, and such parts are merged by weights that are as their sums of e^S. The tangent of the logarithm of such a sum is
mean = rowsum(P * dS), so the tangents merge by the derivative of the same formula. Half precision is widened to float32
as it is read. Beyond inputs and outputs, memory holds one tile and the keys and values of the heads in it.

No autograd runs here and inputs have been checked: `kernels.attention` is the public side. In all four functions
q is [B, H, Nq, D], k [B, G, Nk, D], v [B, G, Nk, Dv] with H a multiple of G, in any strides; tq, tk, tv are shaped like
what they are tangents of, or None; out, tangent and their gradients are [B, H, Nq, Dv]; lse and mean are [B, H, Nq],
float32 (float64 for float64 inputs). A causal mask shows keys j <= i to query i.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels.chunked_tiles import Keys, Part, Rows, Tiling, by_pair, each, present, store, wide

LOG2E = 1 / math.log(2)  # exp2 is the faster exponential

Gradients = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]  # of q, k, v, tq, tk, tv


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """out = softmax(scale q k^T) v in the type of v, and lse = log(rowsum(exp(scale q k^T)))."""
    out, lse = v.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=wide(q.dtype))
    _attend(Rows(q, None), Keys(k, v, None, None), (out, lse), scale, causal)
    return out, lse


def jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, tangent, lse and mean.

    With P = softmax(scale q k^T) and dS = scale (tq k^T + q tk^T): mean = rowsum(P * dS) and
    tangent = (P * (dS - mean)) v + P tv.
    """
    out, lse = v.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=wide(q.dtype))
    tangent, mean = torch.empty_like(out), torch.empty_like(lse)
    _attend(Rows(q, tq), Keys(k, v, tk, tv), (out, lse, tangent, mean), scale, causal)
    return out, tangent, lse, mean


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from `grad`, the gradient of out; `out` and `lse` come from `forward`."""
    return _pull(Rows(q, None, lse, out, grad), Keys(k, v, None, None), scale, causal)[:3]


def jvp_backward(
    grad: Tensor | None,
    grad_tangent: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    out: Tensor,
    tangent: Tensor,
    lse: Tensor,
    mean: Tensor,
    scale: float,
    causal: bool,
) -> Gradients:
    """Gradients of q, k, v and of the present tangents from `grad`, that of out (None: zero), and `grad_tangent`.

    With G = grad, E = grad_tangent, C = dS - mean, delta = rowsum(G * out + E * tangent) and b = rowsum(E * out), the
    gradient of dS is P * (E v^T - b), that of the logits P * (G v^T + E tv^T - delta + C * (E v^T - b)).
    """
    rows = Rows(q, tq, lse, out, grad, mean, tangent, grad_tangent)
    return _pull(rows, Keys(k, v, tk, tv), scale, causal)


def _attend(rows: Rows, keys: Keys, result: tuple[Tensor, ...], scale: float, causal: bool) -> None:
    """Fill out and lse, then tangent and mean if they are there."""
    tiling = Tiling.of(rows.q, keys.k, causal)
    scratch = tiling.scratch(rows.q, len(result) // 2)
    all_rows, all_keys, results = each(rows, tiling.grouped), each(keys, by_pair), each(result, tiling.grouped)
    for heads in tiling.head_spans():
        head_keys = Keys._make(tiling.keys(all_keys, heads))
        for span in tiling.row_spans():
            tile = Rows._make(tiling.rows(all_rows, heads, span))
            out, lse, *derivative = own = tiling.rows(results, heads, span)
            part = Part(out, torch.empty_like(lse), lse, *derivative)
            for block in tiling.key_spans(span):
                new = part if block.start == 0 else Part._make(each(part, torch.empty_like))
                mask = tiling.mask(span, block, tile.q.device)
                _fill(new, tile, head_keys.block(block), scale, mask, scratch)
                if new is not part:
                    _merge(part, new)
            lse.log_().add_(part.top)
            store(results, own, (heads, slice(None), span))


def _fill(part: Part, rows: Rows, keys: Keys, scale: float, mask: Tensor | None, scratch: Tensor) -> None:
    """Attention of a tile over a block of keys alone, with its derivative if the part has a place for it."""
    p, *more = _views(scratch, rows, keys)
    _products(p, [(rows.q, keys.k)], scale)
    if mask is not None:
        p.masked_fill_(mask, -torch.inf)
    torch.amax(p, -1, keepdim=True, out=part.top)
    # Logits are subtracted before they change base: so they cancel exactly where they are exact.
    torch.sum(p.sub_(part.top).mul_(LOG2E).exp2_(), -1, keepdim=True, out=part.total)
    torch.bmm(p, keys.v, out=part.out).div_(part.total)
    if part.tangent is not None and part.mean is not None:
        _fill_tangent(part.tangent, part.mean, part.out, p, part.total, rows, keys, scale, mask, more[0])


def _fill_tangent(
    tangent: Tensor,
    mean: Tensor,
    out: Tensor,
    p: Tensor,
    total: Tensor,
    rows: Rows,
    keys: Keys,
    scale: float,
    mask: Tensor | None,
    ds: Tensor,
) -> None:
    """tangent and mean of a block with unnormalised probabilities `p` and their row sums `total`; `ds` is scratch."""
    pairs = present((rows.tq, keys.k), (rows.q, keys.tk))
    if not pairs:
        mean.zero_()
        if keys.tv is None:
            tangent.zero_()
        else:
            torch.bmm(p, keys.tv, out=tangent).div_(total)
        return
    _products(ds, pairs, scale)
    if mask is not None:
        ds.masked_fill_(mask, 0)
    # Any centre gives the same tangent; one near the mean saves the digits that a common part of dS would cost.
    centre = ds.mean(-1, keepdim=True)
    ds.sub_(centre).mul_(p)
    rest = ds.sum(-1, keepdim=True).div_(total)
    torch.add(centre, rest, out=mean)
    torch.bmm(ds, keys.v, out=tangent)
    _add(tangent, p, keys.tv)
    tangent.div_(total).addcmul_(rest, out, value=-1)


def _merge(a: Part, b: Part) -> None:
    """Make `a` attention over the keys of both: a row's weights are as the two sums of e^S."""
    top = torch.maximum(a.top, b.top)
    of_a, of_b = a.total * torch.exp(a.top - top), b.total * torch.exp(b.top - top)
    torch.add(of_a, of_b, out=a.total)
    a.top.copy_(top)
    of_a.div_(a.total)
    of_b.div_(a.total)
    if a.tangent is not None and b.tangent is not None and a.mean is not None and b.mean is not None:
        slope = of_a * of_b * (b.mean - a.mean)  # the tangent of of_b
        a.tangent.mul_(of_a).addcmul_(b.tangent, of_b).addcmul_(b.out - a.out, slope)
        a.mean.mul_(of_a).addcmul_(b.mean, of_b)
    a.out.mul_(of_a).addcmul_(b.out, of_b)


def _pull(rows: Rows, keys: Keys, scale: float, causal: bool) -> Gradients:
    """Gradients of q, k, v, tq, tk, tv: reverse mode through `forward` or, with grad_tangent, through `jvp`."""
    tiling = Tiling.of(rows.q, keys.k, causal)
    scratch = tiling.scratch(rows.q, 2 if rows.grad_tangent is None else 4)
    dq, dtq = each(rows[:2], _zeros)
    dk, dv, dtk, dtv = each(keys, _zeros)
    row_results, key_results = each((dq, dtq), tiling.grouped), each((dk, dv, dtk, dtv), by_pair)
    all_rows, all_keys = each(rows, tiling.grouped), each(keys, by_pair)
    for heads in tiling.head_spans():
        head_keys = Keys._make(tiling.keys(all_keys, heads))
        key_sums = Keys._make(tiling.keys(key_results, heads))
        for span in tiling.row_spans():
            tile = Rows._make(tiling.rows(all_rows, heads, span))
            row_sums, starts = tiling.rows(row_results, heads, span), _starts(tile)
            for block in tiling.key_spans(span):
                mask = tiling.mask(span, block, tile.q.device)
                _pull_tile(tile, head_keys.block(block), starts, row_sums, key_sums.block(block), scale, mask, scratch)
            store(row_results, row_sums, (heads, slice(None), span))
        store(key_results, key_sums, (heads,))
    return dq, dk, dv, dtq, dtk, dtv


def _starts(rows: Rows) -> tuple[Tensor, ...]:
    """What a tile's four products start from, [n, R, 1]: -lse, -delta, -mean, -b; 0 where that is absent."""
    g, e, zero = rows.grad, rows.grad_tangent, rows.q.new_zeros(*rows.q.shape[:2], 1)
    pairs = ((g, rows.out), (e, rows.tangent), (e, rows.out))
    g_out, e_tangent, b = (zero if x is None or y is None else (x * y).sum(-1, keepdim=True) for x, y in pairs)
    lse, mean = (zero if x is None else x for x in (rows.lse, rows.mean))
    return -lse, -(g_out + e_tangent), -mean, -b


def _pull_tile(
    rows: Rows,
    keys: Keys,
    starts: tuple[Tensor, ...],
    row_sums: list[Any],
    sums: Keys,
    scale: float,
    mask: Tensor | None,
    scratch: Tensor,
) -> None:
    """Add what one tile gives to the gradients of q and tq, and to those of k, v, tk and tv."""
    (dq, dtq), e = row_sums, rows.grad_tangent
    p, z, *more = _views(scratch, rows, keys)
    _products(p, present((rows.q, keys.k)), scale, starts[0])
    if mask is not None:
        p.masked_fill_(mask, -torch.inf)
    p.mul_(LOG2E).exp2_()
    _add(sums.v, p.mT, rows.grad)
    _add(sums.tv, p.mT, e)
    _products(z, present((rows.grad, keys.v), (e, keys.tv)), 1, starts[1])
    if pairs := present((rows.tq, keys.k), (rows.q, keys.tk)):
        c, y = more
        _products(c, pairs, scale, starts[2])
        _products(y, present((e, keys.v)), 1, starts[3])
        z.addcmul_(c, y)
        _add(sums.v, c.mul_(p).mT, e)
        y.mul_(p)
        _add(dq, y, keys.tk, scale)
        _add(dtq, y, keys.k, scale)
        _add(sums.k, y.mT, rows.tq, scale)
        _add(sums.tk, y.mT, rows.q, scale)
    z.mul_(p)
    _add(dq, z, keys.k, scale)
    _add(sums.k, z.mT, rows.q, scale)


def _views(scratch: Tensor, rows: Rows, keys: Keys) -> list[Tensor]:
    """The buffers as [n, R, keys]."""
    shape = (*rows.q.shape[:2], keys.k.shape[1])
    return [x[: math.prod(shape)].view(shape) for x in scratch]


def _products(target: Tensor, pairs: list[tuple[Tensor, Tensor]], scale: float, start: Tensor | None = None) -> None:
    """target = start + scale * sum of a b^T over the pairs; no start is zero."""
    if math.isnan(scale):  # MKL's float32 products take a NaN for 1
        target.fill_(scale)
        return
    if start is not None:
        target.copy_(start)
    for i, (a, b) in enumerate(pairs):
        target.baddbmm_(a, b.mT, beta=float(i > 0 or start is not None), alpha=scale)


def _add(target: Tensor | None, a: Tensor, b: Tensor | None, scale: float = 1) -> None:
    """target += scale * a b, unless one of them is absent."""
    if target is not None and b is not None:
        target.baddbmm_(a, b, alpha=scale)


def _zeros(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape)
