"""Attention under pairs of transforms, as it stands, traced, exported and compiled: right, or refused with a remedy.

`python -m tests.kernels.transforms` judges all pairs, also by inductor; here are those that cost little.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from kernels.attention import attention, attention_jvp
from tests.kernels.transforms import LENGTHS, PAIRS, draw, judge, with_tangent, within

NESTED = ("dual", "jvp")  # torch has one level of dual tensors
LONG = LENGTHS[1]


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing compiled yet."""
    torch.compiler.reset()


@pytest.mark.parametrize("function", [within, with_tangent])
@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize("pair", [x for x in PAIRS if x != NESTED], ids=" of ".join)
def test_pairs(pair: tuple[str, str], keys: int, function: Any) -> None:
    """Second derivatives have one rule on both sides of the change of paths: they are there."""
    assert judge("eager", *pair, keys, function) == "right"


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize("outer", ["grad", "jvp", "vmap", "jacfwd", "dual"])
@pytest.mark.parametrize("way", ["make_fx", "export"])
def test_what_was_traced_has_its_derivatives(way: str, outer: str, keys: int) -> None:
    """The graph holds the operator, and the derivative belongs to the operator."""
    assert judge(way, outer, "-", keys) == "right"


@pytest.mark.parametrize("keys", LENGTHS)
def test_an_exported_tangent(keys: int) -> None:
    """Both paths, the plain one with the mask that it makes."""
    assert judge("export", "-", "jvp", keys) == "right"


@pytest.mark.parametrize("inner", ["grad", "vmap"])
@pytest.mark.parametrize("keys", LENGTHS)
def test_exports_that_torch_gets_wrong_are_refused(inner: str, keys: int) -> None:
    """A gradient of constants; a vmap whose level is that of another."""
    refused = judge("export", "-", inner, keys)
    assert refused.startswith("refused: NotImplementedError: attention: torch.export")
    assert "export the function itself, and transform the exported module" in refused


COMPILED = [("grad", "grad"), ("grad", "jvp"), ("jvp", "grad"), ("jvp", "vmap"), ("dual", "-")]


@pytest.mark.parametrize("pair", COMPILED, ids=" of ".join)
def test_compiled_pairs(pair: tuple[str, str]) -> None:
    """Within one graph."""
    assert judge("aot_eager", *pair, LONG) == "right"


def test_compiled_for_any_length() -> None:
    """Judged at another length than the first."""
    assert judge("aot_eager dynamic", "jvp", "-", LONG) == "right"


@pytest.mark.parametrize("pair", [("jvp", "jvp"), ("jvp", "-"), ("grad", "-")], ids=" of ".join)
def test_compiled_pairs_of_attention_jvp(pair: tuple[str, str]) -> None:
    """The tangent's forward derivative is not lost."""
    assert judge("aot_eager", *pair, LONG, with_tangent) == "right"


def test_inductor_across_the_change_of_paths() -> None:
    """The tangent in q, k and v by one function that is compiled for any length, on both sides of 64 keys."""
    run = torch.compile(partial(_tangent, path=None), fullgraph=True, dynamic=True)
    for keys in (64, 65, 200):
        torch.testing.assert_close(run(*draw(keys)), _tangent(*draw(keys), path="reference"), rtol=1e-10, atol=1e-12)


def _tangent(*x: torch.Tensor, path: Any) -> torch.Tensor:
    return jvp(within(path), x, tuple(y.cos() for y in x))[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_compiled_tangent_in_every_type(dtype: torch.dtype) -> None:
    """Bit for bit that of eager, the tangent in keys and values alone."""
    q, k, v = (x.to(dtype) for x in draw(LONG))

    def run(q: Any, k: Any, v: Any) -> Any:
        return jvp(lambda k, v: attention(q, k, v), (k, v), (k.cos(), v.cos()))

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), run(q, k, v), rtol=0, atol=0)


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("keys", LENGTHS)
def test_dual_tensors_that_enter_a_compiled_function_are_refused(keys: int, fullgraph: bool) -> None:
    """Inductor would drop their tangents; compiled before, the function is still the same without them."""
    layer = torch.nn.Linear(4, 4, dtype=torch.float64).requires_grad_(False)
    q, k, v = draw(keys)

    def run(q: Any) -> Any:
        return layer(q), _inner(layer(q).sin(), k, v)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=fullgraph)
    before = compiled(q)
    with (
        forward_ad.dual_level(),
        pytest.raises(TorchDynamoException, match=r"dual tensors enter .*call .*uncompiled"),
    ):
        compiled(forward_ad.make_dual(q, q))
    torch.testing.assert_close(compiled(q), before, rtol=0, atol=0)


def _inner(*x: torch.Tensor) -> torch.Tensor:
    return attention(*x)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_transforms_around_a_compiled_function_are_torch_s_to_refuse(transform: str) -> None:
    """With the remedy: to compile the transform too."""
    refused = judge("around aot_eager", transform, "-", LONG)
    assert refused.startswith("refused")
    assert "wrapped within a torch.compile" in refused


def test_a_compiled_product_with_the_hessian_by_parameters() -> None:
    """functional_call and both modes in one graph."""
    layer = torch.nn.Linear(4, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    q, k, v = draw(LONG)

    def loss(path: Any, p: Any) -> Any:
        return attention(functional_call(layer, p, q), k, v, path=path).square().sum()

    def product(path: Any, p: Any) -> Any:
        return jvp(grad(partial(loss, path)), (p,), ({name: x.cos() for name, x in p.items()},))

    compiled = torch.compile(partial(product, None), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(parameters), product("reference", parameters), rtol=1e-9, atol=1e-12)


def test_compiled_vmap_of_the_gradient_of_the_tangent() -> None:
    """Nested vmap over attention_jvp, in float64."""
    q, k, v = draw(LONG)
    tangents = torch.stack([q, -q])

    def loss(path: Any, t: Any, q: Any) -> Any:
        out, tangent = attention_jvp(q, k, v, t, k.sin(), None, path=path)
        return (out * tangent).sum()

    def run(path: Any, t: Any) -> Any:
        return vmap(vmap(grad(partial(loss, path), argnums=(0, 1)), in_dims=(0, None)), in_dims=(None, 0))(t, t)

    compiled = torch.compile(partial(run, None), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tangents), run("reference", tangents), rtol=1e-10, atol=1e-12)
