"""One network in other forms: recomputed, compiled, channels last, guided; the numbers stay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import unet
from models.dropout import Dropout
from models.dual import Dual
from models.network import FLAVOURS, NetworkConfig
from models.primitives import mp_sum, resample
from models.trigflow import TrigFlowNet
from models.unet import Block
from tests.models.networks import KINDS, dual_forward, inputs, network, plain_forward

DROP = Dropout(0.3, torch.tensor([1, 2**40, -3]))
PASSES: dict[str, Callable[[TrigFlowNet], tuple[Any, Tensor]]] = {
    "plain": lambda net: plain_forward(net, DROP),
    "dual": lambda net: dual_forward(net, DROP),
}


def results(net: TrigFlowNet, run: Callable[[], tuple[Any, Tensor]]) -> list[Tensor]:
    """F, its tangent where there is one, the weighting, and the gradient of every parameter."""
    f, w = run()
    parts = list(f) if isinstance(f, Dual) else [f]
    return [*parts, w, *torch.autograd.grad(parts[0].square().sum() + w.sum(), list(net.parameters()))]


def kept_bytes(run: Callable[[], Any]) -> int:
    """Bytes of all storages that a forward pass keeps for its backward pass."""
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("kind", PASSES)
def test_recomputed_blocks_give_the_same_numbers(kind: str) -> None:
    """Value, tangent and all gradients to the bit, dropout included."""
    net = network()
    want = results(net, lambda: PASSES[kind](net))
    net.unet.activation_checkpointing = True
    got = results(net, lambda: PASSES[kind](net))
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.parametrize("kind", PASSES)
def test_recomputed_blocks_keep_less(kind: str) -> None:
    """What is kept beside the weights falls to less than a third; tangents are never kept."""
    net = network(model_channels=32)
    run = lambda: PASSES[kind](net)  # noqa: E731
    everything = kept_bytes(run)
    net.unet.activation_checkpointing = True
    assert kept_bytes(run) < everything / 3
    if kind == "dual":
        assert kept_bytes(run) == kept_bytes(lambda: plain_forward(net, DROP))


def test_the_tangent_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward pass recomputes the value alone."""
    calls = {"value": 0, "tangent": 0}

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*args, **options)

        return counted

    monkeypatch.setattr(unet, "attention", count("value", unet.attention))
    monkeypatch.setattr(unet, "attention_jvp", count("tangent", unet.attention_jvp))
    net = network()
    blocks = sum(bool(module.heads) for module in net.modules() if isinstance(module, Block))
    net.unet.activation_checkpointing = True
    results(net, lambda: dual_forward(net))
    assert calls == {"value": blocks, "tangent": blocks}


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile generates C++, and there is no g++"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recompute", "flavour", "backend", "tolerance"),
    [
        pytest.param("plain", True, "trigflow", "aot_eager", 1e-6, marks=pytest.mark.nightly),
        ("dual", True, "edm2", "aot_eager", 1e-6),
        pytest.param("dual", False, "trigflow", "inductor", 1e-4, marks=(needs_compiler, pytest.mark.nightly)),
    ],
)
def test_compiles_without_a_graph_break(
    kind: str, recompute: bool, flavour: str, backend: str, tolerance: float
) -> None:
    """torch.compile(fullgraph=True) of the plain and of the JVP pass: values, tangents and all gradients."""
    torch.compiler.reset()
    net = network(torch.float32, NetworkConfig(4, 4, 10, 8, (1, 2), 1, (2,), head_channels=8), **FLAVOURS[flavour])
    net.unet.activation_checkpointing = recompute
    x, t, tx, tt, labels = inputs(torch.float32)
    x, tx = x[:, :, :4, :4], tx[:, :, :4, :4]

    def forward() -> tuple[Any, Tensor]:
        if kind == "plain":
            return net(x, t, labels, drop=DROP, with_weight=True)
        return net(Dual(x, tx), Dual(t, tt), labels, drop=DROP, with_weight=True)

    want = results(net, forward)
    got = results(net, torch.compile(forward, fullgraph=True, backend=backend))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def upsampled_attention(net: TrigFlowNet) -> Callable[[Tensor], Any]:
    """A convolution of the upsampled sum of features and their attention."""
    block = next(m for m in net.modules() if isinstance(m, Block) and m.heads)

    def forward(x: Tensor) -> Any:
        y = block.attn_proj(unet.self_attention(block.attn_qkv(x), block.heads))
        return block.conv_res1(resample(mp_sum(x, y, 0.3), "up"))

    return forward


def embedding(net: TrigFlowNet) -> Callable[[Tensor], Any]:
    """The scaled sum of two matrix products."""
    return lambda c_noise: net.unet.embed(c_noise, torch.arange(3) - 1)


@needs_compiler
@pytest.mark.parametrize(("part", "shape"), [(embedding, (3,)), (upsampled_attention, (3, 32, 2, 2))])
def test_what_the_compiler_has_been_silently_wrong_about(
    part: Callable[[TrigFlowNet], Callable[[Tensor], Any]], shape: tuple[int, ...]
) -> None:
    """Value and gradient of compiled code, with the default backend, are those of eager code."""
    torch.compiler.reset()
    forward = part(network(torch.float32))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(4)).requires_grad_()
    want, got = forward(x), torch.compile(forward, fullgraph=True)(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (want, got)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PASSES)
def test_channels_last(kind: str) -> None:
    """The layout goes through every convolution, and the numbers stay."""
    net = network()
    want = results(net, lambda: PASSES[kind](net))
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    layouts: list[bool] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        parts = output if isinstance(output, tuple) else [output]
        layouts.extend(part.is_contiguous(memory_format=torch.channels_last) for part in parts)

    for module in net.modules():
        if isinstance(module, Block):
            module.register_forward_hook(note)
    got = results(net, lambda: PASSES[kind](net))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert layouts
    assert all(layouts)


def test_a_new_guidance_input_changes_nothing() -> None:
    """Its gain starts at zero: a student with it starts as its teacher without it."""
    guided, plain = TrigFlowNet(network(guidance=True).config).double(), network()
    missing, surplus = guided.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(missing) == [
        "unet.emb_guidance.weight",
        "unet.emb_guidance_fourier.freqs",
        "unet.emb_guidance_fourier.phases",
        "unet.emb_guidance_gain",
    ]
    assert surplus == []
    guided.unet.emb_guidance.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(plain_forward(guided)[0], plain_forward(plain)[0])
    torch.nn.init.ones_(guided.unet.emb_guidance_gain)
    x, t, *_, labels = inputs()
    one, two = (guided(x, t, labels, guidance=torch.full_like(t, s)) for s in (1.0, 2.0))
    assert (one - two).abs().max() > 0.01


@pytest.mark.parametrize("guidance", [False, True])
def test_guidance_where_it_does_not_belong(guidance: bool) -> None:
    net = network(guidance=guidance)
    x, t, *_, labels = inputs()
    with pytest.raises(ValueError, match=r"guidance: (given to|missing for) a network that takes"):
        net(x, t, labels, guidance=None if guidance else t)


@pytest.mark.parametrize("kind", KINDS)
def test_one_name_for_each_tensor(kind: str) -> None:
    """The state dict round-trips, and buffers are saved with the weights."""
    net = network(**KINDS[kind])
    other = TrigFlowNet(net.config).double()
    other.load_state_dict(net.state_dict())
    for a, b in zip(dual_forward(net)[0], dual_forward(other)[0], strict=True):
        assert torch.equal(a, b)
