"""The public functions: attention and attention with its Jacobian-vector product in one pass.

Shapes: q [B, H, Nq, D], k [B, G, Nk, D], v [B, G, Nk, Dv] of one floating type on one device, with any strides. G
divides H: query head h attends to key head h // (H / G). Tangents have the shape of what they are tangents of.

Four paths compute the same:
- `triton`: kernels in the style of FlashAttention-2, for float16, bfloat16 and float32 up to width 256 on a GPU;
- `chunked`: PyTorch operations on a block of logits at a time, any device, also float64;
- `plain`: PyTorch's formulas with all logits at once, kept for the backward pass: the fastest for few keys on a CPU;
- `reference`: the same in float64, the oracle of the tests;
- `flash`, of plain attention alone and where it is asked for: the package flash-attn (`kernels.flash_path`).
Unless told, a GPU takes `triton` where that knows type and width; everything else takes `plain` up to 64 keys and
`chunked` beyond. So memory beyond inputs and outputs grows with the length, not its square, in the backward pass too.

Derivatives of every order and mode are right on every path but `flash`, which refuses those beyond the first of reverse
mode, and at every length: under torch.func's transforms, on dual
tensors of torch.autograd.forward_ad, under activation checkpointing and FSDP2, within torch.compile (fullgraph) and
through what torch.export and make_fx traced. Where torch refuses, so do we: transforms of a compiled function are to be
taken within it. Dual tensors that enter a compiled function are refused here, as the compiler may drop their tangents.
On `triton` and `chunked` second derivatives keep memory linear too, unless both are of forward mode: the forward
derivative of a tangent, and what is of third order, are the formulas of `plain` and hold all logits at once.

Under autocast inputs are cast to its type, as for scaled_dot_product_attention. Logits and sums are kept in float32 at
least. Results are the same from run to run for the same inputs, path and number of threads; another number of threads
may sum in another order, in torch's matrix products too, and change the last digits.
"""

from __future__ import annotations

from numbers import Real
from typing import Literal

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from kernels import (
    flash_path,
    functions,  # noqa: F401  # pyright: ignore[reportUnusedImport]  (the operators' derivatives)
    operators,
    reference,
)

Path = Literal["triton", "chunked", "plain", "reference", "flash"]
PATHS = ("triton", "chunked", "plain", "reference", "flash")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TRITON_WIDTH = 256  # the widest head that the kernels' tiles hold
_NOT_EXPORTED = (TransformType.Grad, TransformType.Vmap)
PLAIN_KEYS = 64  # beyond, `chunked` is as fast on a CPU and needs less memory


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    path: Path | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T) v, [B, H, Nq, Dv]; `scale` is 1/sqrt(D) unless given.

    `causal` lets query i see the keys j <= i, as is_causal of scaled_dot_product_attention does. Raises ValueError for
    shapes, types or devices that do not fit together, NotImplementedError for what no path supports: a dense
    `attn_mask` and dropout, which are named here only to be refused, and dual tensors made outside a compiled function
    in it. Raises TypeError for what is no tensor, no number as `scale` or no truth value as `causal`.
    """
    _refuse(attn_mask, dropout_p)
    _refuse_what_torch_loses()
    _check_tensors(q=q, k=k, v=v)
    q, k, v = _autocast(q, k, v)
    _check(q, k, v)
    scale, path, causal = _scale(q, scale), _path(path, q, v), _truth("causal", causal)
    if path in ("plain", "reference"):
        with operators.without_autocast(q.device):
            return reference.attention(q, k, v, scale, causal, _wide(path, q))
    if path == "flash":
        return flash_path.attention(q, k, v, scale, causal)
    return operators.forward(q, k, v, scale, causal, path)[0]


def attention_jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tq: Tensor | None,
    tk: Tensor | None,
    tv: Tensor | None,
    *,
    scale: float | None = None,
    causal: bool = False,
    tangent_grad: bool = True,
    path: Path | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention and its derivative in direction (tq, tk, tv): two tensors [B, H, Nq, Dv].

    With P = softmax(S), S = scale q k^T and dS = scale (tq k^T + q tk^T) the tangent is
    (P * dS) v - rowsum(P * dS) * out + P tv (sCM paper, appendix on JVP flash attention).
    A tangent that is None counts as zero and costs nothing. `tangent_grad=False` computes the tangent outside the
    autograd graph, as the stop-gradient of Algorithm 1 wants it; `out` keeps its graph either way.
    The other arguments and errors are those of `attention`.
    """
    _refuse(attn_mask, dropout_p)
    _refuse_what_torch_loses()
    _check_tensors(q=q, k=k, v=v)
    _check_tensors(**{name: t for name, t in (("tq", tq), ("tk", tk), ("tv", tv)) if t is not None})
    q, k, v, tq, tk, tv = _autocast(q, k, v, tq, tk, tv)
    _check(q, k, v)
    for name, x, tangent in (("tq", q, tq), ("tk", k, tk), ("tv", v, tv)):
        _check_tangent(name, x, tangent)
    scale, path, causal = _scale(q, scale), _path(path, q, v), _truth("causal", causal)
    tangent_grad = _truth("tangent_grad", tangent_grad)
    if path == "flash":
        raise NotImplementedError("path='flash' knows no tangents: give no path, or path='triton'")
    if path in ("plain", "reference"):
        with operators.without_autocast(q.device):
            return reference.attention_jvp(q, k, v, tq, tk, tv, scale, causal, tangent_grad, _wide(path, q))
    out, tangent, *_ = operators.jvp(q, k, v, tq, tk, tv, scale, causal, path, tangent_grad)
    return out, tangent


def _autocast(*tensors: Tensor | None) -> tuple:
    """All but float64 cast to autocast's type, where it is on."""
    device = next(x.device.type for x in tensors if x is not None)
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        x.to(dtype) if x is not None and x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors
    )


def _scale(q: Tensor, scale: float | None) -> float:
    if scale is None:
        return q.shape[-1] ** -0.5
    if isinstance(scale, Tensor):
        raise TypeError("scale is a tensor, but has no derivative: give a number, or multiply q by it and give scale=1")
    if not isinstance(scale, Real | torch.SymFloat | torch.SymInt):
        raise TypeError(f"scale is {type(scale).__name__}: give a number, or None for 1/sqrt(width of q)")
    return float(scale)


def _truth(name: str, value: bool) -> bool:
    if not isinstance(value, bool | torch.SymBool):
        raise TypeError(f"{name} is {type(value).__name__}: it takes True or False; there are no masks but causal=True")
    return bool(value)


def _path(path: Path | None, q: Tensor, v: Tensor) -> Path:
    if path is None:
        if q.is_cuda and q.dtype != torch.float64 and max(q.shape[-1], v.shape[-1]) <= TRITON_WIDTH:
            return "triton"
        return "plain" if v.shape[2] <= PLAIN_KEYS else "chunked"
    if path not in PATHS:
        raise ValueError(f"path {path!r} is unknown: choose one of {', '.join(PATHS)}, or none")
    return path


def _wide(path: Path, q: Tensor) -> torch.dtype:
    return torch.float64 if path == "reference" or q.dtype == torch.float64 else torch.float32


def _refuse(attn_mask: Tensor | None, dropout_p: float) -> None:
    for name, value in (("attn_mask", attn_mask is not None), ("dropout_p", dropout_p != 0)):
        if value:
            raise NotImplementedError(f"{name} is not supported: attention is full, or causal=True, without dropout")


def _refuse_what_torch_loses() -> None:
    """Where torch itself would drop a derivative in silence, whatever the function."""
    if torch.compiler.is_dynamo_compiling():
        if forward_ad._current_level >= 0:
            _refuse_duals_around_graph()
    elif torch.compiler.is_exporting() and any(x.key() in _NOT_EXPORTED for x in get_interpreter_stack() or []):
        raise NotImplementedError(
            "attention: torch.export takes the inputs of torch.func.grad, vjp and jacrev for constants, and an "
            "exported vmap is wrong inside another: export the function itself, and transform the exported module"
        )


def _refuse_duals_around_graph() -> None:
    """Raise if forward mode was on where the function that is being compiled was called.

    torch.compile runs this as it is, so that the error ends the compilation. One raised in traced code would break the
    graph, whose first part then drops the tangents.
    """
    from torch._dynamo.symbolic_convert import InstructionTranslator

    if InstructionTranslator.current_tx().output.dual_level >= 0:
        raise NotImplementedError(
            "attention: dual tensors enter a compiled function, which may drop their tangents: make them inside it "
            "(torch.func.jvp or dual_level within what torch.compile gets), or call the function uncompiled"
        )


# As torch.compiler.assume_constant_result does, which imports the whole compiler first, for seconds.
_refuse_duals_around_graph._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _check_tensors(**tensors: object) -> None:
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{name} is {type(x).__name__}: attention takes torch tensors [batch, heads, length, width]"
            )


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: attention takes [batch, heads, length, width]")
        if x.dtype not in DTYPES:
            raise NotImplementedError(f"{name} is {x.dtype}: attention takes float16, bfloat16, float32 or float64")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} is {x.dtype} on {x.device}, q is {q.dtype} on {q.device}: give both the same")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or width")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} differ in batch, heads or length")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads: take a divisor")
    if k.shape[2] == 0:
        raise ValueError("attention over zero keys is undefined: k and v have length 0")
    if q.shape[-1] == 0:
        raise ValueError("q and k have width 0: attention needs at least one channel a head")


def _check_tangent(name: str, x: Tensor, tangent: Tensor | None) -> None:
    if tangent is None:
        return
    if tangent.shape != x.shape:
        raise ValueError(f"{name} has shape {tuple(tangent.shape)}: give it the shape of {name[1]}, {tuple(x.shape)}")
    if tangent.dtype != x.dtype or tangent.device != x.device:
        raise ValueError(
            f"{name} is {tangent.dtype} on {tangent.device}, {name[1]} is {x.dtype} on {x.device}: give both the same"
        )
