"""The four computations as torch operators, so that torch.compile, functorch and FLOP counters see each as one node.

Tensors: q [B, H, Nq, D], k [B, G, Nk, D], v [B, G, Nk, Dv] with H a multiple of G; out, tangent and their gradients
[B, H, Nq, Dv]; lse and mean [B, H, Nq], the logarithm of each row's sum of e^S and the mean of dS under its softmax.
`path` names the module that computes: `chunked` or `triton`. How the operators differentiate is in `kernels.functions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, infer_schema
from torch.utils.flop_counter import register_flop_formula

# Not torch.library.custom_op: what that registers for autograd knows no forward mode and could not be replaced.
LIBRARY = Library("trigscale", "DEF")
_frames = torch._C._dynamo.eval_frame  # pyright: ignore[reportAttributeAccessIssue]


def _operator(name: str) -> Callable[[Callable[..., Any]], torch._ops.OpOverload]:
    """Define trigscale::`name`, computed by a function on any device; calls of the result are dispatched by torch."""

    def define(function: Callable[..., Any]) -> torch._ops.OpOverload:
        schema = infer_schema(function, mutates_args=())
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, untraced(function), "CompositeExplicitAutograd")
        operator = getattr(torch.ops.trigscale, name).default
        torch.library.register_vmap(operator, partial(_fold, operator), lib=LIBRARY)
        return operator

    return define


def untraced(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, hidden from torch.compile: a compiled graph holds the operator and calls the kernel as it is."""
    # What torch.compiler.disable does to it, without its import of the compiler, which takes longer than torch's own.
    skip = _frames._FrameAction.SKIP
    _frames.set_code_exec_strategy(kernel.__code__, _frames._FrameExecStrategy(skip, skip))
    return kernel


def _fold(operator: torch._ops.OpOverload, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, ...]:
    """Fold vmap's dimension into the batch, the leading one of every tensor, and take it out of the results."""
    size = info.batch_size

    def fold(x: Any, dim: int | None) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    results = operator(*(fold(x, dim) for x, dim in zip(args, in_dims, strict=True)))
    # The gradient of an absent tangent is empty and has no batch.
    outs = tuple(x.unflatten(0, (size, -1)) if x.ndim > 1 else x for x in results)
    return outs, tuple(0 if x.ndim > 1 else None for x in results)


@_operator("attention")
def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, path: str) -> tuple[Tensor, Tensor]:
    """(out, lse)."""
    with without_autocast(q.device):
        return _module(path).forward(q, k, v, scale, causal)


@_operator("attention_backward")
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


@_operator("attention_jvp")
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


@_operator("attention_jvp_backward")
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


@torch.library.register_fake(forward, lib=LIBRARY)
def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return _like_out(q, v), _per_row(q)


@torch.library.register_fake(backward, lib=LIBRARY)
def _backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


@torch.library.register_fake(jvp, lib=LIBRARY)
def _jvp_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return _like_out(q, v), _like_out(q, v), _per_row(q), _per_row(q)


@torch.library.register_fake(jvp_backward, lib=LIBRARY)
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
