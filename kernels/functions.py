"""How the operators differentiate: reverse mode, forward mode and vmap.

Each operator has an autograd function, through which it is called, since an operator alone loses a tangent silently.
torch.compile knows no function with a forward mode: it gets the operator, with the same reverse mode and vmap.
Second derivatives raise NotImplementedError; the paths `plain` and `reference`, which use none of this, have them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import CustomOpDef  # pyright: ignore[reportPrivateImportUsage]  (documented)

from kernels import operators

Gradients = tuple[Tensor | None, ...]


class Attention(Function):
    """(q, k, v, scale, causal, path) -> (out, lse); lse has no derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return operators.forward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, *ctx.options = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.save_for_forward(q, k, v)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        if grads[0] is None:
            return (None,) * 6
        return *call(operators.backward, grads[0], *ctx.saved_tensors, *ctx.options), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Gradients:
        out_and_tangent = call(operators.jvp, *ctx.saved_tensors, *tangents[:3], *ctx.options, True)
        return out_and_tangent[1], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, ...]:
        return _fold(Attention.apply, info, in_dims, *args)


class AttentionJVP(Function):
    """(q, k, v, tq, tk, tv, scale, causal, path, tangent_grad) -> (out, tangent, lse, mean).

    Without `tangent_grad` the tangent has no gradient, and the input tangents are not kept for the backward pass.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return operators.jvp(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *ctx.options, tangent_grad = inputs[6:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2 if tangent_grad else 1 :])
        kept = inputs[:6] if tangent_grad else (*inputs[:3], None, None, None)
        ctx.save_for_backward(*kept, output[0], output[2], *([output[1], output[3]] if tangent_grad else []))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        grad, grad_tangent = grads[:2]
        q, k, v, tq, tk, tv, out, lse, *rest = ctx.saved_tensors
        gradients: Gradients = (None,) * 6
        if grad_tangent is not None:
            args = grad, grad_tangent, q, k, v, tq, tk, tv, out, rest[0], lse, rest[1]
            found = call(operators.jvp_backward, *args, *ctx.options)
            gradients = tuple(x if needed else None for x, needed in zip(found, ctx.needs_input_grad, strict=False))
        elif grad is not None:
            gradients = (*call(operators.backward, grad, q, k, v, out, lse, *ctx.options), None, None, None)
        return *gradients, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Gradients:
        raise _refusal("a forward derivative of the tangent")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, ...]:
        return _fold(AttentionJVP.apply, info, in_dims, *args)


class _First(Function):
    """A backward pass, of which no derivative is known."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        raise _refusal("a derivative of the gradient")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Gradients:
        raise _refusal("a forward derivative of the gradient")


class AttentionBackward(_First):
    """See `operators.backward`."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return operators.backward(*args)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, ...]:
        return _fold(AttentionBackward.apply, info, in_dims, *args)


class AttentionJVPBackward(_First):
    """See `operators.jvp_backward`."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return operators.jvp_backward(*args)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, ...]:
        return _fold(AttentionJVPBackward.apply, info, in_dims, *args)


def _fold(
    apply: Callable[..., tuple[Tensor, ...]], info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[Any, ...]:
    """Fold vmap's dimension into the batch, the leading one of every tensor, and take it out of the results."""
    size = info.batch_size

    def fold(x: Any, dim: int | None) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    results = apply(*(fold(x, dim) for x, dim in zip(args, in_dims, strict=True)))
    # The gradient of an absent tangent is empty and has no batch.
    outs = tuple(x.unflatten(0, (size, -1)) if x.ndim > 1 else x for x in results)
    return outs, tuple(0 if x.ndim > 1 else None for x in results)


def _refusal(what: str) -> NotImplementedError:
    return NotImplementedError(f'attention: {what} is known to path="reference" and path="plain" alone')


_FUNCTIONS: dict[CustomOpDef, type[Function]] = {
    operators.forward: Attention,
    operators.jvp: AttentionJVP,
    operators.backward: AttentionBackward,
    operators.jvp_backward: AttentionJVPBackward,
}
for _operator in _FUNCTIONS:
    _operator.register_vmap(partial(_fold, _operator))
for _operator in (operators.forward, operators.jvp):
    _operator.register_autograd(_FUNCTIONS[_operator].backward, setup_context=_FUNCTIONS[_operator].setup_context)


def call(operator: CustomOpDef, *args: Any) -> tuple[Tensor, ...]:
    """Apply the operator's autograd function or, where torch.compile traces, the operator."""
    return operator(*args) if torch.compiler.is_compiling() else _FUNCTIONS[operator].apply(*args)
