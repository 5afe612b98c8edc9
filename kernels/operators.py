"""The four computations as torch operators, so that torch.compile, functorch and FLOP counters see each as one node.

Tensors: q [B, H, Nq, D], k [B, G, Nk, D], v [B, G, Nk, Dv] with H a multiple of G; out, tangent and their gradients
[B, H, Nq, Dv]; lse and mean [B, H, Nq], the logarithm of each row's sum of e^S and the mean of dS under its softmax.
`path` names the module that computes: `chunked` or `triton`. An operator knows neither reverse nor forward mode:
those are in `kernels.functions`, and an operator called alone under forward mode would lose the tangent.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("trigscale::attention", mutates_args=())
def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, path: str) -> tuple[Tensor, Tensor]:
    """(out, lse)."""
    with without_autocast(q.device):
        return _module(path).forward(q, k, v, scale, causal)


@torch.library.custom_op("trigscale::attention_backward", mutates_args=())
def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
    path: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    with without_autocast(q.device):
        return _module(path).backward(grad, q, k, v, out, lse, scale, causal)


@torch.library.custom_op("trigscale::attention_jvp", mutates_args=())
def jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    scale: float,
    causal: bool,
    path: str,
    tangent_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, tangent, lse, mean); whether the tangent shall have a gradient matters to `kernels.functions` alone."""
    with without_autocast(q.device):
        return _module(path).jvp(q, k, v, tq, tk, tv, scale, causal)


@torch.library.custom_op("trigscale::attention_jvp_backward", mutates_args=())
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
    path: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, tq, tk and tv; an empty tensor for a tangent that is None."""
    with without_autocast(q.device):
        gradients = _module(path).jvp_backward(
            grad, grad_tangent, q, k, v, tq, tk, tv, out, tangent, lse, mean, scale, causal
        )
    return tuple(q.new_empty(0) if x is None else x for x in gradients)  # type: ignore[return-value]


@forward.register_fake
def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return _like_out(q, v), _per_row(q)


@backward.register_fake
def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


@jvp.register_fake
def _jvp_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return _like_out(q, v), _like_out(q, v), _per_row(q), _per_row(q)


@jvp_backward.register_fake
def _jvp_backward_fake(
    grad: Tensor | None, grad_tangent: Tensor, q: Tensor, *others: Tensor | None
) -> tuple[Tensor, ...]:
    return tuple(q.new_empty(0 if x is None else x.shape) for x in (q, *others[:5]))


# Floating-point operations of the matrix products alone, a multiply-add counted twice, a mask not taken off.
Shape = Sequence[int]


@register_flop_formula(torch.ops.trigscale.attention)
def _forward_flops(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return _products(q, k, q[3] + v[3])


@register_flop_formula(torch.ops.trigscale.attention_backward)
def _backward_flops(grad: Shape, q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return _products(q, k, 3 * q[3] + 2 * v[3])


@register_flop_formula(torch.ops.trigscale.attention_jvp)
def _jvp_flops(
    q: Shape, k: Shape, v: Shape, tq: Shape | None, tk: Shape | None, tv: Shape | None, *_: object, **__: object
) -> int:
    logits = [tq, tk].count(None)
    values = [tv].count(None) + (logits == 2)
    return _products(q, k, (3 - logits) * q[3] + (3 - values) * v[3])


@register_flop_formula(torch.ops.trigscale.attention_jvp_backward)
def _jvp_backward_flops(
    grad: Shape | None,
    grad_tangent: Shape,
    q: Shape,
    k: Shape,
    v: Shape,
    tq: Shape | None,
    tk: Shape | None,
    tv: Shape | None,
    *_: object,
    **__: object,
) -> int:
    # S, dq and dk from Z, then for each of tq and tk: its part of dS, its own gradient, and its part of dk or dq.
    width = 3 + 3 * sum(t is not None for t in (tq, tk))
    # M, A and both parts of dv; A's second part and dtv go with tv.
    values = 1 + 2 * (grad is not None) + (tq is not None or tk is not None) + 2 * (tv is not None)
    return _products(q, k, width * q[3] + values * v[3])


def _products(q: Shape, k: Shape, inner: int) -> int:
    return 2 * q[0] * q[1] * q[2] * k[2] * inner


def _module(path: str) -> ModuleType:
    # Imported on first use: `triton` needs a package that machines without a GPU lack.
    return import_module(f"kernels.{path}" if path == "chunked" else f"kernels.{path}_path")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would round the logits to half; the meta device knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _like_out(q: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(*q.shape[:3], v.shape[3])


def _per_row(q: Tensor) -> Tensor:
    return q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
