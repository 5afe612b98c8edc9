"""The layouts of an operation's results, worked out from those of its operands: rules for what a network is made of.

torch's own rules for the meta device are written in Python as well, take ten times as long, and import its compiler and
sympy, a second and a half. A rule here gives exactly what torch gives, or None: then torch is asked. Operations without
a rule are torch's too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

Sizes = Sequence[int]


class Layout(NamedTuple):
    """Shape, strides and type of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


Results = tuple[Layout | None, ...]
Rule = Callable[..., Results | None]
aten = torch.ops.aten


def results(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Results | None:
    """What the operation makes of operands on the meta device; None where only torch knows."""
    if (rule := RULES.get(func)) is not None:
        return rule(*args, **kwargs)
    return _elementwise(func, args, kwargs) if torch.Tag.pointwise in func.tags else None


def _elementwise(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Results | None:
    """One new tensor, made element by element from operands that broadcast."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    if not tensors or kwargs:
        return None  # such as a memory format that is asked for
    shape = broadcast(tensors)
    # Types are promoted by the operation itself: on the CPU, for one element.
    one = func(*(_one_element(x) if isinstance(x, Tensor) else x for x in args))
    if shape is None or not isinstance(one, Tensor):
        return None
    return (Layout(shape, _kept_strides(tensors, shape), one.dtype),)


def _one_element(x: Tensor) -> Tensor:
    return torch.ones([1] * x.ndim, dtype=x.dtype)  # without dimensions it counts for less in the promotion


def broadcast(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The common shape, None where there is none."""
    shape: list[int] = []
    for sizes in zip_longest(*(reversed(x.shape) for x in tensors), fillvalue=1):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            return None
        shape.append(wide.pop() if wide else 1)
    return tuple(reversed(shape))


def _kept_strides(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an elementwise result: without gaps, its dimensions in memory in the order of the operands'.

    The rule of TensorIterator in torch: where operands disagree the first counts, and where none has an opinion the
    dimensions stay in order.
    """
    if all(x.shape == shape and x.is_contiguous() for x in tensors):
        return contiguous(shape)
    if len({x.stride() for x in tensors}) == 1 and all(x.shape == shape and _dense(x) for x in tensors):
        return tensors[0].stride()
    strides = [_expanded(x, shape) for x in tensors]
    order = list(reversed(range(len(shape))))  # innermost first
    for moving in range(1, len(order)):
        at = moving
        for before in reversed(range(moving)):
            found = _compare(order[before], order[at], strides, shape)
            if found > 0:
                order[before], order[at] = order[at], order[before]
                at = before
            elif found < 0:
                break
    return _strides_in(order, shape)


def _compare(a: int, b: int, strides: Sequence[Sizes], shape: Sizes) -> int:
    """Above 0 where dimension a has to lie outside of b, below 0 where it has to lie inside, 0: unknown."""
    for of_operand in strides:
        if of_operand[a] == 0 or of_operand[b] == 0:
            continue
        if of_operand[a] != of_operand[b]:
            return 1 if of_operand[a] > of_operand[b] else -1
        if shape[a] > shape[b]:
            return 1
    return 0


def _expanded(x: Tensor, shape: Sizes) -> tuple[int, ...]:
    """Strides of x broadcast to a shape: 0 where it repeats."""
    missing = len(shape) - x.ndim
    own = (0 if size == 1 != shape[missing + n] else x.stride(n) for n, size in enumerate(x.shape))
    return (*[0] * missing, *own)


def _dense(x: Tensor) -> bool:
    """Whether x fills its memory without gaps and without overlaps."""
    expected = 1
    for stride, size in sorted((x.stride(n), size) for n, size in enumerate(x.shape) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _strides_in(order: Sequence[int], shape: Sizes) -> tuple[int, ...]:
    """Strides without gaps of dimensions that follow each other in memory, the innermost first."""
    steps = accumulate((max(shape[n], 1) for n in order), lambda x, y: x * y, initial=1)
    stride_of = dict(zip(order, steps, strict=False))
    return tuple(stride_of[n] for n in range(len(shape)))


def contiguous(shape: Sizes) -> tuple[int, ...]:
    """Strides of a row-major tensor."""
    return _strides_in(range(len(shape) - 1, -1, -1), shape)


def _new(shape: Sizes, dtype: torch.dtype) -> Layout:
    return Layout(tuple(shape), contiguous(shape), dtype)


def _plain(*tensors: Tensor) -> bool:
    """Whether all are floating and row-major, and none can be read as channels last."""
    return all(x.is_floating_point() and x.stride() == contiguous(x.shape) and _by_rows(x) for x in tensors)


def _by_rows(x: Tensor) -> bool:
    """Whether a result that takes its memory format from x is row-major for certain."""
    return x.ndim < 4 or x.stride(1) > x.stride(-1)


def _exist(x: Tensor, dims: Sizes) -> bool:
    return all(-x.ndim <= dim < x.ndim for dim in dims)


def _like(x: Tensor, memory_format: Any = None, dtype: torch.dtype | None = None, **_: Any) -> Results | None:
    if memory_format not in (None, torch.preserve_format):
        return None
    return (Layout(tuple(x.shape), _kept_strides([x], tuple(x.shape)), dtype or x.dtype),)


def _clone(x: Tensor, memory_format: Any = None) -> Results | None:
    if memory_format == torch.contiguous_format:
        return (_new(x.shape, x.dtype),)
    if memory_format is None and _dense(x):
        return (Layout(tuple(x.shape), x.stride(), x.dtype),)
    return _like(x, memory_format)


def _arange(end: Any, dtype: torch.dtype | None = None, **_: Any) -> Results | None:
    if type(end) is not int or end < 0:
        return None
    return (_new([end], dtype or torch.int64),)


def _scalar(value: Any, dtype: torch.dtype | None = None, **_: Any) -> Results | None:
    return None if dtype is None else (_new([], dtype),)


def _reduced(
    x: Tensor, dims: Sizes | None = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Results | None:
    if not x.is_floating_point() or not _exist(x, dims or ()):
        return None
    gone = {dim % x.ndim for dim in dims} if dims else set(range(x.ndim))
    shape = [1 if n in gone else size for n, size in enumerate(x.shape) if keepdim or n not in gone]
    return (_new(shape, dtype or x.dtype),)


def _norm(x: Tensor, order: Any = 2, dims: Any = None, keepdim: bool = False, **dtype: Any) -> Results | None:
    if dims and _exist(x, dims) and all(x.shape[dim] == 1 for dim in dims):
        return None  # of one element the norm is its size, which keeps strides
    return _reduced(x, dims, keepdim, **dtype)


def _product(ndim: int, a: Tensor, b: Tensor) -> Results | None:
    """Of matrices, or of batches of them."""
    fits = a.ndim == b.ndim == ndim and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    return (_new([*a.shape[:-1], b.shape[-1]], a.dtype),) if fits and a.dtype == b.dtype else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Results | None:
    first = tensors[0]
    if not _exist(first, [dim]):
        return None
    dim %= first.ndim
    others = {(*x.shape[:dim], *x.shape[dim + 1 :]) for x in tensors}
    if len(others) > 1 or len({(x.ndim, x.dtype) for x in tensors}) > 1 or not any(map(_by_rows, tensors)):
        return None
    return (_new([*first.shape[:dim], sum(x.shape[dim] for x in tensors), *first.shape[dim + 1 :]], first.dtype),)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Results | None:
    first = tensors[0]
    if dim != 0 or len({(x.shape, x.dtype) for x in tensors}) > 1 or not any(map(_by_rows, tensors)):
        return None
    return (_new([len(tensors), *first.shape], first.dtype),)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Results | None:
    return (_new(x.shape, x.dtype),) if _plain(x) and _exist(x, [dim]) and not half_to_float else None


def _softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Results | None:
    same = grad.shape == output.shape and grad.dtype == output.dtype == input_dtype
    return (_new(grad.shape, grad.dtype),) if same and _plain(grad, output) else None


def _windows(x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    """How often a kernel fits along each dimension behind batch and channels."""
    sides = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return [(size + 2 * pad - dilated * (k - 1) - 1) // step + 1 for size, k, step, pad, dilated in sides]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Results | None:
    fits = x.ndim == weight.ndim == 4 and x.dtype == weight.dtype and x.shape[1] == weight.shape[1]
    if groups != 1 or transposed or bias is not None or not fits or not _plain(x) or not weight.is_contiguous():
        return None
    sides = _windows(x, weight.shape[2:], stride, padding, dilation)
    return (_new([x.shape[0], weight.shape[0], *sides], x.dtype),) if min(sides) > 0 else None


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: Sizes | None, *options: Any
) -> Results | None:
    *_, (wants_input, wants_weight, wants_bias) = options
    if wants_bias or not _plain(grad, x) or not weight.is_contiguous():
        return None
    return (
        _new(x.shape, x.dtype) if wants_input else None,
        _new(weight.shape, weight.dtype) if wants_weight else None,
        None,
    )


def _pooled(x: Tensor, kernel: Sizes, stride: Sizes = (), *options: Any) -> Results | None:
    if options or x.ndim != 4 or not _plain(x):
        return None
    sides = _windows(x, kernel, stride or kernel, (0, 0), (1, 1))
    return (_new([*x.shape[:2], *sides], x.dtype),) if min(sides) > 0 else None


def _pooled_backward(grad: Tensor, x: Tensor, *options: Any) -> Results | None:
    return (_new(x.shape, x.dtype),) if _plain(grad, x) else None


RULES: dict[Any, Rule] = {
    aten.zeros_like.default: _like,
    aten.ones_like.default: _like,
    aten.clone.default: _clone,
    aten.arange.default: _arange,
    aten.scalar_tensor.default: _scalar,
    aten.mean.default: _reduced,
    aten.mean.dim: _reduced,
    aten.sum.default: _reduced,
    aten.sum.dim_IntList: _reduced,
    aten.linalg_vector_norm.default: _norm,
    aten.mm.default: partial(_product, 2),
    aten.bmm.default: partial(_product, 3),
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.avg_pool2d.default: _pooled,
    aten.avg_pool2d_backward.default: _pooled_backward,
}
