"""The plain formulas in float64: the oracle that every other path is judged by."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v through float64, returned in the type of `v`."""
    p = torch.softmax(scale * q.double() @ k.double().mT, dim=-1)
    return (p @ v.double()).to(v.dtype)


def attention_jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    tangent_grad: bool,
) -> tuple[Tensor, Tensor]:
    """See `kernels.attention.attention_jvp`."""
    dtype = v.dtype
    q, k, v = q.double(), k.double(), v.double()
    p = torch.softmax(scale * q @ k.mT, dim=-1)
    out = p @ v
    with torch.set_grad_enabled(torch.is_grad_enabled() and tangent_grad):
        ds = torch.zeros_like(p)
        if tq is not None:
            ds = ds + scale * tq.double() @ k.mT
        if tk is not None:
            ds = ds + scale * q @ tk.double().mT
        h = p * ds
        tangent = h @ v - h.sum(-1, keepdim=True) * out
        if tv is not None:
            tangent = tangent + p @ tv.double()
    return out.to(dtype), tangent.to(dtype)
