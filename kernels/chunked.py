"""Attention over one block of keys at a time with the online softmax recurrence, in PyTorch operations.

Per query row with running maximum m, over key blocks: l = sum e^{S-m}, A = sum e^{S-m} v, r = sum e^{S-m} dS,
B = sum (e^{S-m} dS) v + e^{S-m} tv; everything gathered so far is rescaled by e^{m_old - m_new} when the maximum moves.
At the end out = A / l and tangent = B / l - (r / l) out. Sums are kept in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1024  # keys a block: bounds the logits held at once to Nq x BLOCK a head


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v in the type of `v`."""
    dtype, (q, k, v) = v.dtype, _widen(q, k, v)
    if k.shape[2] <= BLOCK:
        return (torch.softmax(scale * q @ k.mT, dim=-1) @ v).to(dtype)
    top = q.new_full((*q.shape[:3], 1), -torch.inf)
    total = torch.zeros_like(top)
    acc = q.new_zeros(*q.shape[:3], v.shape[-1])
    for kb, vb in zip(k.split(BLOCK, 2), v.split(BLOCK, 2), strict=True):
        s = scale * q @ kb.mT
        new_top = torch.maximum(top, s.detach().amax(-1, keepdim=True))
        rescale, p = (top - new_top).exp(), (s - new_top).exp()
        total = rescale * total + p.sum(-1, keepdim=True)
        acc = rescale * acc + p @ vb
        top = new_top
    return (acc / total).to(dtype)


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
    dtype, (q, k, v) = v.dtype, _widen(q, k, v)
    track = torch.is_grad_enabled() and tangent_grad
    top = q.new_full((*q.shape[:3], 1), -torch.inf)
    total, slope = torch.zeros_like(top), torch.zeros_like(top)
    acc = q.new_zeros(*q.shape[:3], v.shape[-1])
    t_acc = torch.zeros_like(acc)
    for start in range(0, k.shape[2], BLOCK):
        keys = slice(start, start + BLOCK)
        kb, vb = k[:, :, keys], v[:, :, keys]
        s = scale * q @ kb.mT
        new_top = torch.maximum(top, s.detach().amax(-1, keepdim=True))
        rescale, p = (top - new_top).exp(), (s - new_top).exp()
        total = rescale * total + p.sum(-1, keepdim=True)
        acc = rescale * acc + p @ vb
        with torch.set_grad_enabled(track):
            h = p * _logit_tangent(q, kb, tq, tk if tk is None else tk[:, :, keys], scale)
            slope = rescale * slope + h.sum(-1, keepdim=True)
            t_acc = rescale * t_acc + h @ vb
            if tv is not None:
                t_acc = t_acc + p @ tv[:, :, keys].to(p.dtype)
        top = new_top
    out = acc / total
    with torch.set_grad_enabled(track):
        tangent = t_acc / total - (slope / total) * out
    return out.to(dtype), tangent.to(dtype)


def _logit_tangent(q: Tensor, k: Tensor, tq: Tensor | None, tk: Tensor | None, scale: float) -> Tensor:
    """dS = scale (tq k^T + q tk^T) [B, H, Nq, block]; an absent tangent skips its product."""
    if tq is None and tk is None:
        return q.new_zeros(*q.shape[:3], k.shape[2])
    parts = [tq.to(q.dtype) @ k.mT] if tq is not None else []
    if tk is not None:
        parts.append(q @ tk.to(q.dtype).mT)
    return scale * sum(parts[1:], parts[0])


def _widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision to float32: logits and sums are never held in half."""
    return tuple(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors)
