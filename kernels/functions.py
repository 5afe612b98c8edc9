"""How the operators differentiate: their kernels under autograd, which the dispatcher calls at every level of it.

So the derivative belongs to the operator, whoever calls it: eager code, torch.func's transforms around it, a graph of
torch.compile, torch.export or make_fx, or torch.ops. Each kernel does what torch's own operators do: inputs that carry
tangents give outputs that carry them, inputs that require a gradient give outputs with a node that knows its backward.

First derivatives, and second ones where the outer or the inner is of reverse mode, are operators again: with
D = attention_jvp's tangent in direction c, the vector-Jacobian product of attention's gradient is the gradient of
<grad, D>. What lies beyond, the forward derivative of a tangent and derivatives of third order, is that of the plain
formulas, which hold all logits at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled, make_dual, unpack_dual
from torch.autograd.function import _SingleLevelFunction

from kernels import operators, reference

Operator = torch._ops.OpOverload
Gradients = tuple[Tensor | None, ...]
ForwardMode = Callable[[Sequence[Any], Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]
LEVEL = 0  # of forward mode: torch has one; those of torch.func nest by wrapping tensors


class _Node(_SingleLevelFunction):
    """(compute, *arguments of the operator) -> its results as `compute` gives them, at one level of autograd.

    torch.autograd.Function would start from the outermost transform again, below which the dispatcher calls us.
    """

    @staticmethod
    def forward(compute: Callable[[], tuple[Tensor, ...]], *_: Any) -> tuple[Tensor, ...]:
        # A function's forward turns both modes off, for outer levels too: these have their own derivatives to record.
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            return compute()


class Attention(_Node):
    """operators.forward; lse has no gradient."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, *ctx.options = inputs[1:]
        ctx.save_for_backward(q, k, v, *output)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        if grads[0] is None:
            return (None,) * 7
        return None, *operators.backward(grads[0], *ctx.saved_tensors, *ctx.options), None, None, None


class AttentionJVP(_Node):
    """operators.jvp; lse and mean have no gradient.

    Without `tangent_grad` the tangent has none either, and the input tangents are not kept for the backward pass.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        inputs = inputs[1:]
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
            found = operators.jvp_backward(*args, *ctx.options)
            gradients = tuple(x if needed else None for x, needed in zip(found, ctx.needs_input_grad[1:], strict=False))
        elif grad is not None:
            gradients = (*operators.backward(grad, q, k, v, out, lse, *ctx.options), None, None, None)
        return None, *gradients, None, None, None, None


class AttentionBackward(_Node):
    """operators.backward, a function of grad, q, k and v; out and lse follow from these."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[1:7])
        ctx.options = inputs[7:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        if all(x is None for x in grads):
            return (None,) * 10
        tangent, gradients = _derivative_of_gradient(None, grads, ctx.saved_tensors, ctx.options)
        return None, tangent, *gradients, None, None, None, None, None


class AttentionJVPBackward(_Node):
    """operators.jvp_backward, a function of the gradients, q, k, v and the tangents; all else follows from these."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[1:9])
        ctx.options = inputs[13:]
        ctx.mark_non_differentiable(*(x for x, of in zip(output, inputs[3:9], strict=True) if of is None))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        given, wanted = _present(ctx.saved_tensors), _present(grads)
        if not wanted:
            return (None,) * 16

        def formulas(*tensors: Tensor) -> tuple[Tensor, ...]:
            args: list[Any] = [None] * 8
            for i, x in zip(given, tensors, strict=True):
                args[i] = x
            gradients = _plain_jvp_backward(args, ctx.options)
            return tuple(gradients[i] for i in wanted)

        pull: Any = torch.func.vjp(formulas, *given.values())[1]
        found = dict(zip(given, pull(tuple(wanted.values())), strict=True))
        return None, *(found.get(i) for i in range(8)), *(None,) * 7


def _attention(args: Sequence[Any], compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Forward mode of attention; the tangent of lse is the mean of dS."""
    primals, tangents = _unpack(args)
    out, tangent, lse, mean = operators.jvp(*primals[:3], *tangents[:3], *primals[3:], True)
    if _needs_gradient(args):
        out, lse = _dual_node(Attention, compute, args)
    return _dual(out, tangent), _dual(lse, mean)


def _attention_backward(args: Sequence[Any], compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Forward mode of the gradient: that of <tangent of grad, out> + <grad, tangent of out>."""
    primals, tangents = _unpack(args)
    needed = _needs_gradient(args)
    gradients = _dual_node(AttentionBackward, compute, args) if needed else operators.backward(*primals)
    if all(x is None for x in tangents[:4]):
        return gradients
    _, derivatives = _derivative_of_gradient(tangents[0], tangents[1:4], primals[:6], primals[6:])
    return tuple(_dual(x, t) for x, t in zip(gradients, derivatives, strict=True))


def _derivative_of_gradient(
    grad: Tensor | None, direction: Sequence[Tensor | None], saved: Sequence[Tensor], options: Sequence[Any]
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """T, the tangent of out in a direction of (q, k, v), and the gradients of <grad, out> + <saved grad, T> by q, k, v.

    `saved` are grad, q, k, v, out and lse of operators.backward.
    """
    saved_grad, q, k, v, out, lse = saved
    if all(x is None for x in direction):
        return None, operators.backward(grad, q, k, v, out, lse, *options)
    _, tangent, _, mean = operators.jvp(q, k, v, *direction, *options, True)
    args = grad, saved_grad, q, k, v, *direction, out, tangent, lse, mean
    return tangent, operators.jvp_backward(*args, *options)[:3]


def _plain_jvp(args: Sequence[Any]) -> tuple[Tensor, ...]:
    """operators.jvp in plain formulas."""
    q, k, v, tq, tk, tv, scale, causal, _, tangent_grad = args
    with operators.without_autocast(q.device):
        return reference.jvp(q, k, v, tq, tk, tv, scale, causal, tangent_grad, _wide(q))


def _plain_jvp_backward(inputs: Sequence[Any], options: Sequence[Any]) -> tuple[Tensor, ...]:
    """operators.jvp_backward in plain formulas, of its first eight arguments and its options."""
    grad, grad_tangent, q, k, v, tq, tk, tv = inputs
    scale, causal, _ = options
    with operators.without_autocast(q.device):
        gradients = reference.jvp_backward(grad, grad_tangent, q, k, v, tq, tk, tv, scale, causal, _wide(q))
    return tuple(q.new_empty(0) if x is None else x for x in gradients)


def _register(operator: Operator, node: type[_Node], forward_mode: ForwardMode) -> None:
    """Make the operator's kernel under autograd, from its forward mode and the node of its graph."""

    def kernel(keys: Any, *args: Any) -> tuple[Tensor, ...]:
        compute = partial(_below_autograd, operator, keys, args)
        if any(t is not None for t in _unpack(args)[1]):
            return forward_mode(args, compute)
        return _apply(node, compute, args) if _needs_gradient(args) else compute()

    operators.LIBRARY.impl(operator, operators.untraced(kernel), "Autograd", with_keyset=True)


def _needs_gradient(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)


def _apply(node: type[_Node], compute: Callable[[], tuple[Tensor, ...]], args: Sequence[Any]) -> tuple[Tensor, ...]:
    with enable_single_level_autograd_function():
        return node.apply(compute, *args)  # pyright: ignore[reportAttributeAccessIssue] - of each subclass


def _dual_node(node: type[_Node], compute: Callable[[], tuple[Tensor, ...]], args: Sequence[Any]) -> tuple[Tensor, ...]:
    """The results without tangents; but their node keeps those of its inputs, for the gradient has a tangent too."""
    with _set_fwd_grad_enabled(False):
        return _apply(node, compute, args)


def _unpack(args: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Tensor | None, ...]]:
    """Primals and tangents at this level of forward mode; what is no tensor has no tangent.

    The level is said: torch's record of the current one is not kept where torch.compile replays a graph.
    """
    pairs = [unpack_dual(x, level=LEVEL) if isinstance(x, Tensor) else (x, None) for x in args]
    return tuple(x for x, _ in pairs), tuple(t for _, t in pairs)


def _below_autograd(operator: Operator, keys: Any, args: Sequence[Any]) -> tuple[Tensor, ...]:
    """Go on to the next level, or to the computation."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *args)


def _dual(x: Tensor, tangent: Tensor) -> Tensor:
    return make_dual(x, tangent, level=LEVEL)


def _present(tensors: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """Those that are there, by position."""
    return {i: x for i, x in enumerate(tensors) if x is not None}


def _wide(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


_register(operators.forward, Attention, _attention)
_register(operators.backward, AttentionBackward, _attention_backward)
_register(operators.jvp, AttentionJVP, lambda args, _: _plain_jvp(args))
_register(operators.jvp_backward, AttentionJVPBackward, lambda args, _: _plain_jvp_backward(args[:8], args[12:]))
