"""The Triton path: the launchers of attention, its Jacobian-vector product and their gradients on a GPU.

Four functions with the interface of `kernels.chunked`: no autograd inside, inputs checked by `kernels.attention`, of
any strides, never modified; outputs contiguous. float16, bfloat16 and float32, head dims up to 256. Launches go to the
caller's current stream on the tensors' device and never wait for the GPU. Block sizes come from triton_blocks.py, which
tells short lengths from the rest: a change of lengths or batch alone compiles at most two variants.

With TRITON_INTERPRET=1 set before the first import, Triton's interpreter runs the same kernels on CPU tensors, slowly
(float16 and float32 only: its bfloat16 products are wrong).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("path='triton' needs triton: pip install 'trigscale[gpu]', or use path='chunked'") from error

from kernels.triton_backward import key_kernel, query_kernel
from kernels.triton_blocks import Blocks, forward_blocks, key_blocks, keys_and_values_together, parts, query_blocks
from kernels.triton_forward import forward_kernel
from kernels.triton_tiles import Matrices, stride_code

WIDEST = 256  # head dim
SHORT = 256  # both lengths up to here: short


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention and the natural logarithm of the weights' sum: out [B, H, Nq, Dv], lse [B, H, Nq] float32."""
    out, _, lse, _ = _launch_forward(q, k, v, (None, None, None), scale, causal)
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
    """out and tangent [B, H, Nq, Dv], lse and mean (rowsum of P dS) [B, H, Nq] float32."""
    out, tangent, lse, mean = _launch_forward(q, k, v, (tq, tk, tv), scale, causal)
    if tangent is None or mean is None:
        return out, torch.zeros_like(out), lse, torch.zeros_like(lse)
    return out, tangent, lse, mean


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients dq, dk, dv of <grad, out>, with out and lse as `forward` gave them."""
    return _launch_backward((grad, None), q, k, v, (None, None, None), (out, None, lse, None), scale, causal)[:3]


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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients dq, dk, dv, dtq, dtk, dtv of <grad, out> + <grad_tangent, tangent>; None where the tangent is None."""
    saved = (out, tangent, lse, mean)
    return _launch_backward((grad, grad_tangent), q, k, v, (tq, tk, tv), saved, scale, causal)


Tangents = tuple[Tensor | None, Tensor | None, Tensor | None]
Strides = tuple[int, int, int, bool]  # of B, of H, the step, and whether by row, as in Matrices


def _launch_forward(
    q: Tensor, k: Tensor, v: Tensor, tangents: Tangents, scale: float, causal: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    _check_request(q, v)
    _check_device(q)
    batch, heads, queries, _ = q.shape
    width = v.shape[3]
    with_tangent = any(x is not None for x in tangents)
    out = q.new_empty(batch, heads, queries, width)
    lse = q.new_empty(batch, heads, queries, dtype=torch.float32)
    tangent = torch.empty_like(out) if with_tangent else None
    mean = torch.empty_like(lse) if with_tangent else None
    if lse.numel() == 0:
        return out, tangent, lse, mean
    cut = forward_blocks(*_kind(q, v, with_tangent))
    _launch(
        forward_kernel,
        -(-queries // cut.queries) * batch * heads,
        cut,
        [*_matrices(True, q, k, v, *tangents), out, tangent, lse, mean, *_sizes(q, k, scale)],
        {"CAUSAL": causal, "NEGATIVE": scale < 0},
        q,
    )
    return out, tangent, lse, mean


def _launch_backward(
    grads: tuple[Tensor | None, Tensor | None],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tangents: Tangents,
    saved: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    _check_request(q, v)
    _check_device(q)
    (batch, heads, queries, _), (key_heads, keys) = q.shape, k.shape[1:3]
    out, tangent, lse, mean = saved
    make = torch.zeros if lse.numel() == 0 else torch.empty
    dq, dk, dv = (make(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    dtq, dtk, dtv = (None if x is None else make(x.shape, dtype=x.dtype, device=x.device) for x in tangents)
    if lse.numel() == 0:
        return dq, dk, dv, dtq, dtk, dtv
    with_tangent = tangent is not None
    kind = _kind(q, v, with_tangent)
    delta, b = torch.empty_like(lse), torch.empty_like(lse) if with_tangent else None
    inputs, sizes = _matrices(_hopper(q), q, k, v, *tangents, *grads, out, tangent), _sizes(q, k, scale)
    rows = [lse, mean, delta, b]
    mask = {"CAUSAL": causal}
    cut = query_blocks(*kind)
    programs = -(-queries // cut.queries) * batch * heads
    _launch(query_kernel, programs, cut, [*inputs, *rows, dq, dtq, *sizes], mask, q)
    cut = key_blocks(*kind)
    programs = -(-keys // cut.keys) * batch * key_heads
    parts = [(True, True)] if keys_and_values_together(*kind[:3]) else [(True, False), (False, True)]
    for of_keys, of_values in parts:
        flags = {"OF_KEYS": of_keys, "OF_VALUES": of_values, **mask}
        _launch(key_kernel, programs, cut, [*inputs[:8], *rows, dk, dv, dtk, dtv, *sizes], flags, q)
    return dq, dk, dv, dtq, dtk, dtv


def _launch(
    kernel: Any, programs: int, cut: Blocks, arguments: list[Any], flags: dict[str, bool], where: Tensor
) -> None:
    """Start `programs` programs on the device of `where`, in the caller's current stream there."""
    device: AbstractContextManager[object] = torch.cuda.device(where.device) if where.is_cuda else nullcontext()
    with device:
        kernel[(programs,)](
            *arguments, ROWS=cut.queries, KEYS=cut.keys, **flags, num_warps=cut.warps, num_stages=cut.stages
        )


def _sizes(q: Tensor, k: Tensor, scale: float) -> list[Any]:
    """heads, query heads a key head, queries, keys, scale."""
    return [q.shape[1], q.shape[1] // k.shape[1], q.shape[2], k.shape[2], float(scale)]


def _matrices(split: bool, *inputs: Tensor | None) -> list[Matrices | None]:
    """The inputs as kernels take them; copied where neither of the last strides is 1 or one of them is huge.

    `split`: with tiles of two parts where that saves columns.
    """
    laid_out = [None if x is None else _lay_out(x) for x in inputs]
    vector = min(_vector(*y) for y in laid_out if y is not None)
    return [None if y is None else _matrix(*y, vector, split) for y in laid_out]


def _lay_out(x: Tensor) -> tuple[Tensor, Strides]:
    """x and its strides, or a contiguous copy and those of it."""
    strides = _strides(x)
    if strides is None:
        x = x.contiguous()
        strides = _strides(x)
        assert strides is not None
    return x, strides


def _strides(x: Tensor) -> Strides | None:
    """(stride of B, stride of H, step, by row) of `Matrices`, None where x does not fit it."""
    b, h, n, d = (stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True))
    length, width = x.shape[2:]
    if width == 1 or d == 1:
        step, by_row = (n if length > 1 else width), True
    elif length == 1 or n == 1:
        step, by_row = d, False
    else:
        return None
    return (b, h, step, by_row) if 0 <= step < 2**31 // WIDEST else None


def _vector(x: Tensor, strides: Strides) -> int:
    """Elements in 16 bytes if all rows (columns, where the length is contiguous) of x are aligned so, else 1."""
    b, h, step, by_row = strides
    whole = (b, h, step) if by_row else (b, h, step, x.shape[2])
    aligned = x.data_ptr() % 16 == 0 and all(y * x.element_size() % 16 == 0 for y in whole)
    return 16 // x.element_size() if aligned else 1


def _matrix(x: Tensor, strides: Strides, vector: int, split: bool) -> Matrices:
    b, h, step, by_row = strides
    columns, rest = parts(x.shape[3], split)
    constants = (tl.constexpr(y) for y in (by_row, x.shape[3], columns, rest, vector))
    return Matrices(x, stride_code(b), stride_code(h), tl.constexpr(step) if by_row else stride_code(step), *constants)


def _kind(q: Tensor, v: Tensor, with_tangent: bool) -> tuple[int, torch.dtype, bool, bool, bool]:
    """What the block tables ask for."""
    width, short = max(q.shape[3], v.shape[3]), max(q.shape[2], v.shape[2]) <= SHORT
    return width, q.dtype, with_tangent, short, _hopper(q)


def _hopper(q: Tensor) -> bool:
    """The interpreter plays the part of a Hopper GPU."""
    return not q.is_cuda or torch.cuda.get_device_capability(q.device)[0] == 9


def _check_request(q: Tensor, v: Tensor) -> None:
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"path='triton' computes float16, bfloat16 and float32, not {q.dtype}: use path='chunked'")
    for name, width in (("q and k", q.shape[3]), ("v", v.shape[3])):
        if width > WIDEST:
            raise ValueError(f"{name}: head dim {width}, path='triton' goes up to {WIDEST}: use path='chunked'")


def _check_device(q: Tensor) -> None:
    interpreted = not isinstance(forward_kernel, triton.JITFunction)
    if interpreted and q.dtype == torch.bfloat16:
        raise ValueError("bfloat16 products are wrong in Triton's interpreter: use float16, float32 or path='chunked'")
    if not (q.is_cuda or interpreted):
        raise ValueError(f"path='triton' needs a GPU, the tensors are on {q.device}: use path='chunked'")
