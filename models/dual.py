"""Values that carry a stop-gradient tangent, and how an operation is lifted to them.

Algorithm 1 needs F with its autograd graph and the stop-gradient derivative of F in one direction. A network written
in the operations below runs unchanged on plain tensors (F alone) and on `Dual` values (F and its tangent in one forward
pass). The tangent is computed outside the autograd graph, so a student step pays one forward for F, one for the
tangent and one backward. torch.func.jvp over the same network gives the same tangent but records the tangent's graph
as well; it is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Dual(NamedTuple):
    """A value and its derivative in one direction, two tensors of one shape."""

    value: Tensor
    tangent: Tensor


Signal = Tensor | Dual


def value_of(x: Signal) -> Tensor:
    """The value without its tangent."""
    return x.value if isinstance(x, Dual) else x


def linear(op: Callable[[Tensor], Tensor], x: Signal) -> Signal:
    """Apply a linear `op`: its derivative is itself."""
    if isinstance(x, Dual):
        value = op(x.value)
        with torch.no_grad():
            return Dual(value, op(x.tangent))
    return op(x)


def nonlinear(
    op: Callable[[Tensor], Tensor], derivative: Callable[[Tensor, Tensor, Tensor], Tensor], x: Signal
) -> Signal:
    """Apply `op`; `derivative(value, tangent, result)` is its Jacobian-vector product."""
    if isinstance(x, Dual):
        result = op(x.value)
        with torch.no_grad():
            return Dual(result, derivative(x.value, x.tangent, result))
    return op(x)


def combine(op: Callable[[Tensor, Tensor], Tensor], a: Signal, b: Signal) -> Signal:
    """Apply an `op` that is linear in the pair (a, b), such as a sum or a concatenation."""
    if not isinstance(a, Dual) and not isinstance(b, Dual):
        return op(a, b)
    a, b = _as_dual(a), _as_dual(b)
    value = op(a.value, b.value)
    with torch.no_grad():
        return Dual(value, op(a.tangent, b.tangent))


def product(a: Signal, b: Signal) -> Signal:
    """a * b with broadcasting, by the product rule."""
    if not isinstance(a, Dual) and not isinstance(b, Dual):
        return a * b
    a, b = _as_dual(a), _as_dual(b)
    value = a.value * b.value
    with torch.no_grad():
        return Dual(value, torch.addcmul(a.tangent * b.value, a.value, b.tangent))


def _as_dual(x: Signal) -> Dual:
    return x if isinstance(x, Dual) else Dual(x, torch.zeros_like(x))


def recomputed(op: Callable[[Signal, Signal], Signal], a: Signal, b: Signal) -> Signal:
    """op(a, b), of whose values the backward pass keeps a and b alone and computes the rest again.

    The tangents are outside the graph: they are computed once and are not kept.
    """
    tangents = [(x.tangent if isinstance(x, Dual) else None) for x in (a, b)]

    def run(*values: Tensor) -> Signal:
        signals = [x if t is None else Dual(x, t) for x, t in zip(values, tangents or (None, None), strict=True)]
        if not torch.compiler.is_compiling():  # the compiler drops by itself what a recomputation does not need
            tangents.clear()
        return op(*signals)

    return checkpoint(run, value_of(a), value_of(b), use_reentrant=False, preserve_rng_state=False)
