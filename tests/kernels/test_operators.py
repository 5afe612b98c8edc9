"""The operators as torch sees them: schemas, fake results, compilation without graph breaks, counted operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import jvp, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from kernels import operators
from kernels.attention import attention as public_attention
from kernels.attention import attention_jvp as public_attention_jvp

Function = Callable[..., Any]
attention: Function = partial(public_attention, path="chunked")
attention_jvp: Function = partial(public_attention_jvp, path="chunked")


def draw(dtype: torch.dtype = torch.float64, nq: int = 5, nk: int = 7) -> list[Tensor]:
    """q, k, v and their tangents; k and v have half the heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, nq, 6), (2, 2, nk, 6), (2, 2, nk, 3)] * 2
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def calls(dtype: torch.dtype, absent: bool) -> dict[Any, tuple[Any, ...]]:
    """Each operator with arguments that fit together."""
    q, k, v, *tangents = draw(dtype)
    given = (tangents[0], None, None) if absent else tangents
    options = 0.3, True, "chunked"
    out, tangent, lse, mean = operators.jvp(q, k, v, *given, *options, True)
    grad = None if absent else out.sin()
    return {
        operators.forward: (q, k, v, *options),
        operators.backward: (out.sin(), q, k, v, out, lse, *options),
        operators.jvp: (q, k, v, *given, *options, True),
        operators.jvp_backward: (grad, out.cos(), q, k, v, *given, out, tangent, lse, mean, *options),
    }


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operators_keep_their_word(dtype: torch.dtype, absent: bool) -> None:
    """Schema, no aliasing or mutation, fake results of the right shape, type and strides."""
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for operator, args in calls(dtype, absent).items():
        assert set(torch.library.opcheck(operator, args, test_utils=tests).values()) == {"SUCCESS"}


def test_meta_tensors_give_shapes() -> None:
    """Counting parameters and operations of a network allocates nothing."""
    meta = [x.to("meta") for x in draw(torch.float32)]
    out, tangent = attention_jvp(*meta)
    assert out.shape == tangent.shape == attention(*meta[:3]).shape == (2, 4, 5, 3)
    assert out.device.type == "meta"


def same(ours: Any, wanted: Any) -> None:
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)


def losses(function: Function, *tensors: Tensor) -> Tensor:
    """A number in the middle of whose graph attention stands."""
    out = function(*(x.sin() for x in tensors))
    return (out[0] * out[1]).sum() if isinstance(out, tuple) else out.square().sum()


@pytest.fixture
def whole() -> Function:
    """torch.compile that refuses graph breaks."""
    torch._dynamo.reset()
    return partial(torch.compile, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("tangent_grad", [True, False])
@pytest.mark.parametrize("with_tangents", [True, False])
def test_compiled_values_and_gradients(whole: Function, with_tangents: bool, tangent_grad: bool) -> None:
    """Forward and backward in one graph each, with and without the tangent's own gradient."""
    function = partial(attention_jvp, tangent_grad=tangent_grad) if with_tangents else attention
    tensors = draw() if with_tangents else draw()[:3]

    def gradients(run: Function) -> Any:
        leaves = [x.clone().requires_grad_() for x in tensors]
        value = run(*leaves)
        return value, torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)

    same(gradients(whole(partial(losses, function))), gradients(partial(losses, function)))


def test_compiled_forward_mode(whole: Function) -> None:
    """func.jvp inside the compiled region: the tangent is not lost."""
    x = draw()

    def run(*tensors: Tensor) -> Any:
        return jvp(lambda *y: attention(*(z.sin() for z in y)), tensors[:3], tensors[3:])

    same(whole(run)(*x), run(*x))


def test_compiled_vmap(whole: Function) -> None:
    stacked = [torch.stack([x, -x, x.flip(0)]) for x in draw()]
    same(whole(vmap(attention))(*stacked[:3]), vmap(attention)(*stacked[:3]))
    same(whole(vmap(attention_jvp))(*stacked), vmap(attention_jvp)(*stacked))


def test_new_lengths_do_not_compile_again(whole: Function) -> None:
    """After two lengths the sizes are symbols."""
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(attention, backend=counter, fullgraph=True)
    for nq, nk in [(5, 7), (6, 9), (11, 4), (3, 8)]:
        x = draw(nq=nq, nk=nk)[:3]
        same(run(*x), attention(*x))
    assert counter.frame_count == 2


def test_compiled_checkpointing(whole: Function) -> None:
    """Activation checkpointing inside the compiled region."""
    x = [y.requires_grad_() for y in draw()]
    run = partial(checkpoint, partial(losses, attention_jvp), use_reentrant=False)
    same(
        torch.autograd.grad(whole(run)(*x), x),
        torch.autograd.grad(losses(attention_jvp, *x), x),
    )


def count(function: Function, *tensors: Tensor | None) -> int:
    with FlopCounterMode(display=False) as counter:
        out = function(*tensors)
        if isinstance(out, tuple):
            (out[0].sum() + out[1].sum()).backward()
        elif out.requires_grad:
            out.sum().backward()
    return counter.get_total_flops()


def test_counted_operations() -> None:
    """2 matrix products forward, 6 with the tangent, 5 more backward, 15 through both; a multiply-add counts twice."""
    q, k, v, tq, tk, tv = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(6))
    product = 2 * 2 * 3 * 8 * 8 * 4
    with torch.no_grad():
        assert count(attention, q, k, v) == 2 * product
        assert count(lambda *x: attention_jvp(*x)[0], q, k, v, tq, tk, tv) == 6 * product
        assert count(lambda *x: attention_jvp(*x)[0], q, k, v, tq, None, None) == 4 * product
        assert count(lambda *x: attention_jvp(*x)[0], q, k, v, None, None, tv) == 3 * product
    assert count(attention, q, k, v) == 7 * product
    # The backward pass computes S and dS once more: 3 products.
    assert count(attention_jvp, q, k, v, tq, tk, tv) == (6 + 3 + 15 - 3) * product
