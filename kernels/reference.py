"""The plain formulas, in PyTorch operations that hold all logits at once.

In float64 they are the oracle that every other path is judged by; in float32 they are the fastest where keys are few.
Derivatives of every order and mode are those of the formulas.
"""

from __future__ import annotations

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


def _probabilities(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    s = scale * q @ k.mT
    if causal:
        unseen = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1)
        s = s.masked_fill(unseen, -torch.inf)
    return torch.softmax(s, dim=-1)


def _logit_tangent(q: Tensor, k: Tensor, tq: Tensor | None, tk: Tensor | None, scale: float) -> Tensor:
    """dS = scale (tq k^T + q tk^T) [B, H, Nq, Nk]."""
    parts = [] if tq is None else [_widen(tq, q.shape[1], q.dtype) @ k.mT]
    if tk is not None:
        parts.append(q @ _widen(tk, q.shape[1], q.dtype).mT)
    return scale * sum(parts[1:], parts[0])


def _widen(x: Tensor, heads: int, wide: torch.dtype) -> Tensor:
    """[B, G, N, D] in `wide`, each head repeated until there are `heads`."""
    x = x.to(wide)
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
