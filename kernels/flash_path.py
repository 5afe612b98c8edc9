"""The path of flash-attn (Dao-AILab, FlashAttention-2), a package of others: attention and its gradient on a GPU.

It takes float16 and bfloat16, one width of at most 256 for q, k and v, grouped heads, and knows first derivatives of
reverse mode. It was written after the package's documentation; no machine with a GPU has run it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WIDEST = 256
DTYPES = (torch.float16, torch.bfloat16)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """softmax(scale q k^T) v, [B, H, Nq, Dv], with a gradient that is the same from run to run.

    NotImplementedError for what flash-attn does not know or means otherwise, ImportError where it is not installed.
    """
    _check(q, k, v, causal)
    out: Tensor = _Once.apply(_function(), q, k, v, scale, causal)  # pyright: ignore[reportAssignmentType]
    return out


def _function() -> Callable[..., Tensor]:
    try:
        from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "path='flash' needs flash-attn: pip install --no-build-isolation 'trigscale[flash]' beside a CUDA build of "
            "torch, or give no path"
        ) from error
    return flash_attn_func


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    width = q.shape[-1]
    if q.dtype not in DTYPES:
        raise NotImplementedError(f"q is {q.dtype}: path='flash' takes float16 or bfloat16; give no path")
    if v.shape[-1] != width or width > WIDEST:
        raise NotImplementedError(
            f"q is {width} wide, v {v.shape[-1]}: path='flash' takes one width of at most {WIDEST}; give no path"
        )
    if causal and q.shape[2] != k.shape[2]:  # flash-attn lets the last query see the last key, we the first the first
        raise NotImplementedError(
            f"causal with {q.shape[2]} queries and {k.shape[2]} keys means another mask to flash-attn; give no path"
        )
    if torch.compiler.is_compiling():
        raise NotImplementedError("path='flash' within torch.compile or torch.export: give no path there")


class _Once(torch.autograd.Function):
    """Its call and its gradient; a gradient of that one would come out as zero without a word, and is refused."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *args: Any) -> Tensor:
        q, k, v, scale, causal = args
        with torch.enable_grad():
            ctx.inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            # Its tensors are [batch, length, heads, width].
            laid = [x.transpose(1, 2) for x in ctx.inputs]
            ctx.out = function(*laid, softmax_scale=scale, causal=causal, deterministic=True).transpose(1, 2)
        return ctx.out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph
            raise NotImplementedError("path='flash' knows no second derivatives: give no path")
        return None, *torch.autograd.grad(ctx.out, ctx.inputs, grads[0], retain_graph=True), None, None
