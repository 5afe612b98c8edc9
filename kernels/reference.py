"""The plain formulas, in PyTorch operations that hold all logits at once.

In float64 they are the oracle that every other path is judged by; in float32 they are the fastest where keys are few.
Derivatives of every order and mode are those of the formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, wide: torch.dtype) -> Tensor:
    """softmax(scale q k^T) v computed in `wide`, returned in the type of `v`."""
    wide_q, wide_k, wide_v = (_widen(x, q.shape[1], wide) for x in (q, k, v))
    return (_probabilities(wide_q, wide_k, scale, causal) @ wide_v).to(v.dtype)


def attention_jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    causal: bool,
    tangent_grad: bool,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `kernels.attention.attention_jvp`; computed in `wide`, returned in the type of `v`."""
    dtype, heads = v.dtype, q.shape[1]
    q, k, v = (_widen(x, heads, wide) for x in (q, k, v))
    p = _probabilities(q, k, scale, causal)
    out = p @ v
    with torch.set_grad_enabled(torch.is_grad_enabled() and tangent_grad):
        tangent = torch.zeros_like(out)
        if tq is not None or tk is not None:
            ds = _logit_tangent(q, k, tq, tk, scale)
            tangent = (p * (ds - (p * ds).sum(-1, keepdim=True))) @ v
        if tv is not None:
            tangent = tangent + p @ _widen(tv, heads, wide)
    return out.to(dtype), tangent.to(dtype)


def jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    causal: bool,
    tangent_grad: bool,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`attention_jvp` with lse and mean [B, H, Nq] in `wide`, as `kernels.operators.jvp` returns them."""
    results = attention_jvp(q, k, v, tq, tk, tv, scale, causal, tangent_grad, wide)
    with torch.no_grad():
        q, k = (_widen(x, q.shape[1], wide) for x in (q, k))
        s = _logits(q, k, scale, causal)
        mean = (torch.softmax(s, dim=-1) * _logit_tangent(q, k, tq, tk, scale)).sum(-1)
        return *results, torch.logsumexp(s, dim=-1), mean


def jvp_backward(
    grad: Tensor | None,
    grad_tangent: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    causal: bool,
    wide: torch.dtype,
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, tq, tk and tv as `kernels.chunked.jvp_backward` has them, where its letters are explained.

    With G = grad and E = grad_tangent; None for a tangent that is None.
    """
    inputs, heads = (q, k, v, tq, tk, tv), q.shape[1]
    widened: Any = (None if x is None else _widen(x, heads, wide) for x in (*inputs, grad, grad_tangent))
    q, k, v, tq, tk, tv, g, e = widened
    p, ds = _probabilities(q, k, scale, causal), _logit_tangent(q, k, tq, tk, scale)
    c, e_v = _centred(ds, p), e @ v.mT
    y = p * _centred(e_v, p)
    m = c * _centred(e_v, p)
    if g is not None:
        m = m + g @ v.mT
    if tv is not None:
        m = m + e @ tv.mT
    z = p * _centred(m, p)
    gradients = (
        scale * _sum((z, k), (y, tk)),
        scale * _sum((z.mT, q), (y.mT, tq)),
        _sum((p.mT, g), ((p * c).mT, e)),
        scale * y @ k,
        scale * y.mT @ q,
        p.mT @ e,
    )
    return tuple(
        None if x is None else _narrow(gradient, x.shape[1]).to(x.dtype)
        for gradient, x in zip(gradients, inputs, strict=True)
    )


def _probabilities(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    return torch.softmax(_logits(q, k, scale, causal), dim=-1)


def _logits(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    s = scale * q @ k.mT
    if causal:
        # Made from s: within a transform torch.export takes what is made from nothing for a constant of the trace.
        unseen = s.new_ones(s.shape[-2:], dtype=torch.bool).triu(1)
        s = s.masked_fill(unseen, -torch.inf)
    return s


def _logit_tangent(q: Tensor, k: Tensor, tq: Tensor | None, tk: Tensor | None, scale: float) -> Tensor:
    """dS = scale (tq k^T + q tk^T) [B, H, Nq, Nk]."""
    parts = [] if tq is None else [_widen(tq, q.shape[1], q.dtype) @ k.mT]
    if tk is not None:
        parts.append(q @ _widen(tk, q.shape[1], q.dtype).mT)
    return scale * sum(parts[1:], parts[0]) if parts else torch.zeros_like(q @ k.mT)


def _centred(x: Tensor, p: Tensor) -> Tensor:
    """x less its mean under the probabilities of its row."""
    return x - (p * x).sum(-1, keepdim=True)


def _sum(*pairs: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """The sum of a @ b over the pairs of which both are there; one is."""
    first, *rest = (a @ b for a, b in pairs if a is not None and b is not None)
    return sum(rest, first)


def _widen(x: Tensor, heads: int, wide: torch.dtype) -> Tensor:
    """[B, G, N, D] in `wide`, each head repeated until there are `heads`."""
    x = x.to(wide)
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _narrow(x: Tensor, groups: int) -> Tensor:
    """[B, H, N, D] summed over the heads that share one of `groups`: the reverse mode of `_widen`."""
    return x if x.shape[1] == groups else x.unflatten(1, (groups, -1)).sum(2)
