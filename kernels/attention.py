"""The public functions: attention and attention with its Jacobian-vector product in one pass.

Shapes: q [B, H, Nq, D], k [B, H, Nk, D], v [B, H, Nk, Dv]; tangents have the shape of what they are tangents of.
Two paths compute the same: `chunked` (PyTorch operations, any device, logits of one key block at a time) and
`reference` (float64, plain formulas), which is the oracle of the tests.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from kernels import chunked, reference

Path = Literal["chunked", "reference"]
_PATHS = {"chunked": chunked, "reference": reference}


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, path: Path = "chunked") -> Tensor:
    """softmax(scale q k^T) v, [B, H, Nq, Dv] in the type of `v`; `scale` is 1/sqrt(D) unless given.

    Differentiable in reverse and forward mode. Raises ValueError for shapes or types that do not fit together.
    """
    _check(q, k, v)
    with _without_autocast(q.device):
        return _PATHS[path].attention(q, k, v, _scale(q, scale))


def attention_jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    *,
    scale: float | None = None,
    tangent_grad: bool = True,
    path: Path = "chunked",
) -> tuple[Tensor, Tensor]:
    """Attention and its derivative in direction (tq, tk, tv): two tensors [B, H, Nq, Dv].

    With P = softmax(S), S = scale q k^T and dS = scale (tq k^T + q tk^T) the tangent is
    (P * dS) v - rowsum(P * dS) * out + P tv (sCM paper, appendix on JVP flash attention).
    A tangent that is None counts as zero and costs nothing. `tangent_grad=False` computes the tangent outside the
    autograd graph, as the stop-gradient of Algorithm 1 wants it; `out` keeps its graph either way.
    Raises ValueError for shapes or types that do not fit together.
    """
    _check(q, k, v)
    for name, x, tangent in (("tq", q, tq), ("tk", k, tk), ("tv", v, tv)):
        if tangent is not None and tangent.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(tangent.shape)}: give it the shape of {name[1]}, {tuple(x.shape)}"
            )
    with _without_autocast(q.device):
        return _PATHS[path].attention_jvp(q, k, v, tq, tk, tv, _scale(q, scale), tangent_grad)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would round the logits to half; the meta device knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _scale(q: Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: attention takes [batch, heads, length, width]")
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}: attention takes float16, bfloat16, float32 or float64")
    if q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch, heads or width")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} differ in batch, heads or length")
    if k.shape[2] == 0:
        raise ValueError("attention over zero keys is undefined: k and v have length 0")
