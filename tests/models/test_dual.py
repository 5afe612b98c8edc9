"""The network on `Dual` values against torch's forward mode, and the properties that training relies on."""

from __future__ import annotations

import pytest
import torch

from models.dropout import Dropout, dropout
from models.dual import Dual
from models.network import T_MAX, NetworkConfig
from models.primitives import clip, mp_cat, mp_silu, mp_sum, pixel_norm, resample
from models.trigflow import TrigFlowNet
from tests.models.networks import CONFIG, KINDS, dual_forward, inputs, network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [(0.3, 0.9, 1.5), (1e-6, 1e-3, T_MAX)])
def test_network_tangent_equals_forward_mode(kind: str, times: tuple[float, ...]) -> None:
    """Value and tangent of the one dual pass agree with torch.func.jvp to 1e-10 in float64, for the rearranged JVP."""
    net = network(**KINDS[kind])
    x, t, tx, tt, labels = inputs(times=times)
    tt = tt * t.cos() * t.sin()  # Algorithm 1's direction: log sigma has no derivative at the ends without it
    guidance = 1 + t if net.config.guidance else None
    want, want_tangent, *_ = torch.func.jvp(lambda a, b: net(a, b, labels, guidance=guidance), (x, t), (tx, tt))
    got, _ = net(Dual(x, tx), Dual(t, tt), labels, guidance=guidance, with_weight=True)
    torch.testing.assert_close(got.value, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.tangent, want_tangent, rtol=1e-10, atol=1e-10)


def test_network_tangent_equals_finite_differences() -> None:
    """A derivation that shares no code with either forward mode."""
    net = network()
    x, t, tx, tt, labels = inputs()
    h = 1e-5
    with torch.no_grad():
        want = (net(x + h * tx, t + h * tt, labels) - net(x - h * tx, t - h * tt, labels)) / (2 * h)
    torch.testing.assert_close(dual_forward(net)[0].tangent, want, rtol=1e-5, atol=1e-7)


def test_tangent_is_linear_and_outside_the_graph() -> None:
    """Twice the direction is twice the tangent; only the value carries a gradient."""
    net = network()
    x, t, tx, tt, labels = inputs()
    once, _ = net(Dual(x, tx), Dual(t, tt), labels, with_weight=True)
    twice, _ = net(Dual(x, 2 * tx), Dual(t, 2 * tt), labels, with_weight=True)
    torch.testing.assert_close(twice.tangent, 2 * once.tangent, rtol=1e-12, atol=1e-12)
    assert once.value.requires_grad
    assert not once.tangent.requires_grad


def test_gradients_of_the_value_are_those_of_the_plain_pass() -> None:
    """Carrying a tangent along changes neither the value nor its gradients."""
    net = network()
    x, t, *_, labels = inputs()
    plain = torch.autograd.grad(net(x, t, labels).square().sum(), list(net.unet.parameters()))
    dual = torch.autograd.grad(dual_forward(net)[0].value.square().sum(), list(net.unet.parameters()))
    for a, b in zip(plain, dual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_value_and_tangent_share_one_dropout_mask() -> None:
    """With dropout the tangent is that of the masked network, for the same keys, and other keys differ."""
    net = network()
    x, t, tx, tt, labels = inputs()
    drop = Dropout(0.3, torch.arange(3) * 12345)
    want = torch.func.jvp(lambda a, b: net(a, b, labels, drop=drop), (x, t), (tx, tt))
    got, _ = dual_forward(net, drop)
    torch.testing.assert_close(tuple(got), want, rtol=1e-10, atol=1e-10)
    assert not torch.equal(net(x, t, labels, drop=drop._replace(keys=drop.keys + 1)), got.value)
    assert torch.equal(net(x, t, labels, drop=drop), got.value)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_changes_in_a_forward_pass(kind: str) -> None:
    """Forced weight normalisation happens after the optimizer's step, never inside forward: in train mode, under
    torch.func.jvp and in the dual pass, every parameter and buffer stays.
    """
    net = network(**KINDS[kind]).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    dual_forward(net)
    x, t, tx, tt, labels = inputs()
    guidance = 1 + t if net.config.guidance else None
    torch.func.jvp(lambda a, b: net(a, b, labels, guidance=guidance), (x, t), (tx, tt))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_float32_agrees_with_float64_to_rounding() -> None:
    """The float32 tangent differs from the float64 one by rounding alone."""
    want, _ = dual_forward(network())
    got, _ = dual_forward(network(torch.float32))
    scale = want.tangent.abs().max()
    assert (got.tangent - want.tangent).abs().max() < 1e-5 * scale


PRIMITIVES = {
    "pixel_norm": lambda x: pixel_norm(x),
    "mp_silu": lambda x: mp_silu(x),
    "mp_sum": lambda x: mp_sum(x, mp_silu(x), 0.3),
    "mp_cat": lambda x: mp_cat(x, mp_silu(x)),
    "down": lambda x: resample(x, "down"),
    "up": lambda x: resample(x, "up"),
    "clip": lambda x: clip(x, 0.5),
    "dropout": lambda x: dropout(x, Dropout(0.4, torch.arange(3))),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive_tangents(name: str) -> None:
    """Each rule against torch.func.jvp."""
    op = PRIMITIVES[name]
    x, _, tx, *_ = inputs()
    want = torch.func.jvp(op, (x,), (tx,))
    torch.testing.assert_close(tuple(op(Dual(x, tx))), want, rtol=1e-11, atol=1e-12)


def test_initial_network_is_the_zero_function() -> None:
    """The output gain starts at zero."""
    net = TrigFlowNet(CONFIG)
    net.reset_parameters(torch.Generator().manual_seed(0))
    x, t, *_, labels = inputs(torch.float32)
    assert net(x, t, labels).abs().max() == 0


def test_forced_weight_norm() -> None:
    """Stored weights get RMS one per output unit, and the function does not change."""
    net = network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    before = dual_forward(net)[0].value
    net.force_weight_norm()
    weight = net.unet.out_conv.weight.detach()
    rms = weight.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), rtol=1e-3, atol=0)
    torch.testing.assert_close(dual_forward(net)[0].value, before, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 9}, "does not divide by 2"),
        (
            {"head_channels": 10},
            "width 32 at resolution 4 does not divide into equal heads of head_channels 10 or more",
        ),
        ({"head_channels": 64}, "width 32 at resolution 4 does not divide"),
        ({"model_channels": 15}, "model_channels 15 is odd"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, int], message: str) -> None:
    """The error names the number that does not fit."""
    values = {**CONFIG.__dict__, **changes}
    with pytest.raises(ValueError, match=message):
        TrigFlowNet(NetworkConfig(**values))
