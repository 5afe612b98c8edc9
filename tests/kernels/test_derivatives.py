"""How attention differentiates: each transform of torch on our functions against the same on the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, linearize, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from kernels.attention import attention as public_attention
from kernels.attention import attention_jvp as public_attention_jvp

Function = Callable[..., Any]
jvp: Function = torch.func.jvp
# `plain` and `reference` are differentiated by torch itself; short as they are, these cases would take `plain`.
attention: Function = partial(public_attention, path="chunked")
attention_jvp: Function = partial(public_attention_jvp, path="chunked")


def draw(b: int = 2, h: int = 4, g: int = 2, nq: int = 5, nk: int = 7, d: int = 6, dv: int = 3) -> list[Tensor]:
    """q, k, v and their tangents in float64, with grouped heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, h, nq, d), (b, g, nk, d), (b, g, nk, dv)] * 2
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Softmax attention in the operations of torch."""
    groups = q.shape[-3] // k.shape[-3]
    s = q @ k.repeat_interleave(groups, -3).mT * q.shape[-1] ** -0.5
    if causal:
        s = s + torch.full_like(s, -torch.inf).triu(1)
    return torch.softmax(s, -1) @ v.repeat_interleave(groups, -3)


def plain_jvp(*tensors: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Its value and tangent by torch's own forward mode."""
    return jvp(partial(plain, causal=causal), tensors[:3], tensors[3:])


def within(function: Function, causal: bool) -> Function:
    """The function in the middle of others, so that what enters it carries derivatives."""
    return lambda q, k, v: function(q.sin(), k * 2, v.exp(), causal=causal).square()


def same(ours: Any, wanted: Any) -> None:
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


def both(transform: Callable[[Function], Any], causal: bool = False) -> None:
    """A transform of our attention equals that of the plain one."""
    same(transform(within(attention, causal)), transform(within(plain, causal)))


@pytest.mark.parametrize("causal", [False, True])
class TestForwardMode:
    def test_func_jvp(self, causal: bool) -> None:
        x = draw()
        both(lambda f: jvp(f, tuple(x[:3]), tuple(x[3:])), causal)

    @pytest.mark.parametrize("varied", [0, 1, 2])
    def test_func_jvp_in_one_input(self, causal: bool, varied: int) -> None:
        """What carries no tangent is passed on as absent."""
        x = draw()

        def transform(f: Function) -> Any:
            return jvp(lambda y: f(*x[:varied], y, *x[varied + 1 : 3]), (x[varied],), (x[3 + varied],))

        both(transform, causal)

    def test_dual_tensors(self, causal: bool) -> None:
        x = draw()

        def transform(f: Function) -> Any:
            with forward_ad.dual_level():
                return tuple(forward_ad.unpack_dual(f(*map(forward_ad.make_dual, x[:3], x[3:]))))

        both(transform, causal)

    def test_one_pass(self, causal: bool) -> None:
        """The primal that jvp returned has its graph, through the tangent too."""
        x = draw()

        def transform(f: Function) -> Any:
            leaves = [y.clone().requires_grad_() for y in x]
            out, tangent = jvp(f, tuple(leaves[:3]), tuple(leaves[3:]))
            return torch.autograd.grad(out.sum() + tangent.square().sum(), leaves)

        both(transform, causal)


TRANSFORMS: dict[str, Callable[[list[Tensor], Function], Any]] = {
    "grad": lambda x, f: grad(lambda *y: f(*y).sum(), argnums=(0, 1, 2))(*x[:3]),
    "vjp": lambda x, f: vjp(f, *x[:3])[1](torch.ones(2, 4, 5, 3, dtype=torch.float64)),
    "jacfwd": lambda x, f: jacfwd(f, argnums=(0, 1, 2))(*x[:3]),
    "jacrev": lambda x, f: jacrev(f, argnums=(0, 1, 2))(*x[:3]),
    "grad of jvp": lambda x, f: grad(lambda q: jvp(f, (q, *x[1:3]), tuple(x[3:]))[1].sum())(x[0]),
    "linearize": lambda x, f: linearize(f, *x[:3])[1](*x[3:]),
    "jvp of jvp": lambda x, f: jvp(lambda *y: jvp(f, y, tuple(x[3:])), tuple(x[:3]), tuple(x[3:])),
    "jvp of grad": lambda x, f: jvp(gradient(f), tuple(x[:3]), tuple(x[3:])),
    "grad of grad": lambda x, f: gradient(gradient(f))(*x[:3]),
    "jvp of grad of jvp": lambda x, f: jvp(gradient(lambda *y: jvp(f, y, y)), tuple(x[:3]), tuple(x[3:])),
    "grad of grad of grad": lambda x, f: gradient(gradient(gradient(f)))(*(0.3 * y for y in x[:3])),
}


def gradient(f: Function) -> Function:
    """Of a sum over all results, by q, k and v."""
    return grad(lambda *y: sum(x.sin().sum() for x in tree_leaves(f(*y))), argnums=(0, 1, 2))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    """Of first to third order, in every mixture of modes."""
    both(partial(TRANSFORMS[name], draw()))


def stacked() -> list[Tensor]:
    """draw() with another leading dimension of 3."""
    return [torch.stack([y, y.flip(-1), -y]) for y in draw()]


VMAPS: dict[str, Callable[[list[Tensor], Function], Any]] = {
    "vmap": lambda x, f: vmap(f)(*x[:3]),
    "in_dims": lambda x, f: vmap(f, in_dims=(1, None, 2))(x[0].movedim(0, 1), x[1][0], x[2].movedim(0, 2)),
    "vmap of jvp": lambda x, f: vmap(lambda *y: jvp(f, y[:3], y[3:]))(*x),
    "jvp of vmap": lambda x, f: jvp(vmap(f), tuple(x[:3]), tuple(x[3:])),
    "vmap of grad": lambda x, f: vmap(grad(lambda *y: f(*y).sum(), argnums=(0, 1, 2)))(*x[:3]),
    "grad of vmap": lambda x, f: grad(lambda *y: vmap(f)(*y).sum(), argnums=(0, 1, 2))(*x[:3]),
    "vmap of vmap": lambda x, f: vmap(vmap(lambda q, k, v: f(q[None], k[None], v[None])))(*x[:3]),
}


@pytest.mark.parametrize("name", VMAPS)
def test_vmap(name: str) -> None:
    both(partial(VMAPS[name], stacked()))


@pytest.mark.parametrize("absent", [(), (0,), (1, 2)])
def test_vmap_of_attention_jvp_and_its_gradient(absent: tuple[int, ...]) -> None:
    """Over the six inputs of attention_jvp, with tangents absent."""
    x = stacked()
    present = [i for i in range(6) if i - 3 not in absent]

    def loss(*given: Tensor) -> Tensor:
        args: list[Any] = [None] * 6
        for i, y in zip(present, given, strict=True):
            args[i] = y
        out, tangent = attention_jvp(*args)
        return (out * out).sum() + (tangent * out).sum()

    given = [x[i] for i in present]
    argnums = tuple(range(len(present)))
    one_by_one = [grad(loss, argnums=argnums)(*y) for y in zip(*given, strict=True)]
    same(vmap(grad(loss, argnums=argnums))(*given), tuple(map(torch.stack, zip(*one_by_one, strict=True))))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("through", ["out", "tangent", "both"])
def test_gradients_of_attention_jvp(through: str, causal: bool) -> None:
    """All six gradients, through each output alone and both, against autograd of forward mode of the plain formula."""

    def gradients(function: Function) -> Any:
        leaves = [x.requires_grad_() for x in draw()]
        out, tangent = function(*leaves, causal=causal)
        loss = {"out": out.sin().sum(), "tangent": tangent.cos().sum()}
        loss["both"] = loss["out"] * loss["tangent"]
        return torch.autograd.grad(loss[through], leaves, allow_unused=True, materialize_grads=True)

    same(gradients(attention_jvp), gradients(plain_jvp))


@pytest.mark.parametrize("path", ["chunked", "plain", "reference"])
def test_gradcheck(path: Any) -> None:
    """Numerical derivatives of out and tangent by all six inputs, in float64."""
    leaves = [x.requires_grad_() for x in draw(1, 2, 1, 3, 4, 2, 2)]
    assert torch.autograd.gradcheck(lambda *y: public_attention(*y, path=path), leaves[:3], check_forward_ad=True)
    assert torch.autograd.gradcheck(lambda *y: public_attention_jvp(*y, path=path), leaves)


@pytest.mark.parametrize("path", ["chunked", "reference"])
def test_second_derivatives_of_torch_autograd(path: Any) -> None:
    """Numerically, in float64, reverse over reverse and, on dual tensors that require a gradient, forward over it."""
    leaves = [x.requires_grad_() for x in draw(1, 2, 1, 2, 3, 2, 2)]
    options = {"causal": True, "path": path}
    check = partial(torch.autograd.gradgradcheck, check_fwd_over_rev=True)
    assert check(partial(public_attention, **options), leaves[:3])
    assert check(partial(public_attention_jvp, **options), leaves)


SECOND: dict[str, Callable[[list[Tensor], Function], Any]] = {
    "jvp": lambda x, f: jvp(f, tuple(x), tuple(y.cos() for y in x)),
    "jvp, tangents absent": lambda x, f: jvp(lambda q: f(q, *x[1:3], None, x[4], None), (x[0],), (x[3],)),
    "grad of grad": lambda x, f: grad(lambda k: gradient(lambda *y: f(*y, *x[3:]))(x[0], k, x[2])[0].sum())(x[1]),
    "grad of grad, tangents absent": lambda x, f: gradient(gradient(lambda *y: f(*y, None, None, x[5])))(*x[:3]),
    "jvp of grad": lambda x, f: jvp(gradient(lambda *y: f(*y, *x[3:])), tuple(x[:3]), tuple(x[3:])),
}


@pytest.mark.parametrize("name", SECOND)
def test_derivatives_of_the_derivative_of_attention_jvp(name: str) -> None:
    """Of all orders, with absent tangents too."""
    x = draw()
    same(SECOND[name](x, partial(attention_jvp, causal=True)), SECOND[name](x, oracle_jvp))


def oracle_jvp(*tensors: Any) -> tuple[Tensor, Tensor]:
    return public_attention_jvp(*tensors, causal=True, path="reference")


@pytest.mark.parametrize("name", ["grad of grad", "jvp of grad", "jvp of jvp"])
def test_second_derivatives_on_triton(name: str) -> None:
    """In its interpreter, where there is no GPU, in float32."""
    pytest.importorskip("triton")
    x = [y.float().to("cuda" if torch.cuda.is_available() else "cpu") for y in draw(1, 2, 1, 3, 5, 4, 4)]
    ours = TRANSFORMS[name](x, partial(public_attention, path="triton"))
    torch.testing.assert_close(ours, TRANSFORMS[name](x, plain), rtol=1e-4, atol=1e-5)


class _Largest(TorchDispatchMode):
    """The most elements that an operator returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(results) if isinstance(x, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return results


def test_second_derivatives_hold_no_logits() -> None:
    """No operator that runs for the gradient of a gradient returns more than the largest of q, k and v."""
    q, k, v = (x.requires_grad_() for x in draw(1, 1, 1, 40, 40, 2, 2)[:3])
    with _Largest() as largest:
        first = torch.autograd.grad(attention(q, k, v).square().sum(), (q, k, v), create_graph=True)
        torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), (q, k, v))
    assert 0 < largest.elements <= q.numel()


def test_the_operator_itself_has_its_derivatives() -> None:
    """Whoever calls it: no wrapper of ours stands between torch.ops and the derivative."""
    x = draw()
    with forward_ad.dual_level():
        out, lse = torch.ops.trigscale.attention(*map(forward_ad.make_dual, x[:3], x[3:]), 6**-0.5, False, "chunked")
        tangents = [forward_ad.unpack_dual(y).tangent for y in (out, lse)]
    groups = x[0].shape[1] // x[1].shape[1]

    def oracle(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return plain(q, k, v), (q @ k.repeat_interleave(groups, 1).mT * 6**-0.5).logsumexp(-1)

    same(tangents, list(jvp(oracle, tuple(x[:3]), tuple(x[3:]))[1]))


def test_a_tangent_without_gradient_leaves_the_graph() -> None:
    """tangent_grad=False gives the same numbers, a graph through `out` alone, and keeps no input tangent alive."""
    leaves = [x.requires_grad_() for x in draw()]
    want = attention_jvp(*leaves)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        out, tangent = attention_jvp(*leaves, tangent_grad=False)
    assert out.requires_grad
    assert not tangent.requires_grad
    torch.testing.assert_close((out, tangent), want, rtol=0, atol=0)
    assert {x.data_ptr() for x in leaves[:3]} <= set(kept)
    assert {x.data_ptr() for x in (*leaves[3:], tangent)}.isdisjoint(kept)
    same(
        torch.autograd.grad(out.sum(), leaves[:3]),
        torch.autograd.grad(plain(leaves[0], leaves[1], leaves[2]).sum(), leaves[:3]),
    )


class Layer(torch.nn.Module):
    """Projections around attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24, dtype=torch.float64)
        self.out = torch.nn.Linear(8, 8, dtype=torch.float64)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-1, 1, p.numel(), dtype=p.dtype).sin().reshape(p.shape) + 0.1 * i)

    def forward(self, x: Tensor, function: Function = attention) -> Tensor:
        """[B, N, 8] -> [B, N, 8]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return x + self.out(function(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("preserve", [True, False])
def test_activation_checkpointing(preserve: bool) -> None:
    """Recomputed in the backward pass, attention gives the same gradients."""
    layer, x = Layer(), draw(2, 1, 1, 5, 5, 8)[0][:, 0]

    def gradients(run: Function) -> Any:
        return torch.autograd.grad(run(x).square().sum(), list(layer.parameters()))

    run = partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=preserve)
    same(gradients(run), gradients(partial(layer, function=plain)))


def test_jvp_by_the_parameters() -> None:
    """functional_call inside func.jvp, as Hessian-free methods use it."""
    layer, x = Layer(), draw(2, 1, 1, 5, 5, 8)[0][:, 0]
    parameters = dict(layer.named_parameters())
    directions = {name: p.cos() for name, p in parameters.items()}

    def run(function: Function) -> Any:
        return jvp(lambda p: functional_call(layer, p, (x, function)), (parameters,), (directions,))

    same(run(attention), run(plain))
