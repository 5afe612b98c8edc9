"""Networks whose weights are normalised once, and the root mean square that does it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.frozen import BakedLinear, bake
from models.primitives import MPLinear, rms
from models.trigflow import TrigFlowNet
from scaling.training.sharding.fsdp import freeze_sharded
from scaling.training.sharding.world import joined
from tests.models.networks import KINDS, inputs, network
from tests.ranks import run_ranks

CPU = torch.device("cpu")


def evaluate(net: TrigFlowNet, dtype: torch.dtype | None = None) -> Tensor:
    x, t, *_, labels = inputs(torch.float32)
    guidance = torch.full_like(t, 1.7) if net.config.guidance else None
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        return net(x, t, labels, guidance=guidance)


@pytest.mark.parametrize("kind", ["trigflow", "edm2", "guided", "no classes"])
def test_a_baked_network_gives_the_same_bits(kind: str) -> None:
    net = network(torch.float32, **KINDS[kind])
    want = evaluate(net)
    baked = bake(copy.deepcopy(net))
    assert not any(isinstance(module, MPLinear) for module in baked.modules())
    assert not any(parameter.requires_grad for parameter in baked.parameters())
    assert torch.equal(evaluate(baked), want)
    assert want.abs().max() > 0.1


def test_under_autocast_the_weights_may_be_half_as_large() -> None:
    net = network(torch.float32)
    want = evaluate(net, torch.bfloat16)
    size = sum(p.numel() for p in net.parameters())
    baked = bake(net, torch.bfloat16)
    assert torch.equal(evaluate(baked, torch.bfloat16), want)
    assert sum(p.nbytes for p in baked.parameters()) < 2.1 * size


def _sharded(dtype: torch.dtype | None) -> tuple[bool, bool]:
    """Whether the sharded, baked network gives the bits of the whole one, and whether its weights are spread."""
    with joined(CPU) as world:
        want = evaluate(network(torch.float32), dtype)
        net = freeze_sharded(bake(network(torch.float32), dtype), world, world.size)
        spread = [m.weight for m in net.modules() if isinstance(m, BakedLinear)]
        got = evaluate(net, dtype)
        return torch.equal(got, want), all(isinstance(weight, DTensor) for weight in spread)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_baked_network_can_be_sharded(dtype: torch.dtype | None) -> None:
    assert run_ranks(2, _sharded, dtype) == [(True, True)] * 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_root_mean_square_in_every_layout(dtype: torch.dtype, layout: Any) -> None:
    """Values, gradients and tangents against the formula in float64; where x is zero the gradient is zero."""
    generator = torch.Generator().manual_seed(0)
    x, weight, dx = (torch.randn(2, 6, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    x[0, :, 1, 1] = 0
    weight = weight[:, :1]
    here = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
    got = rms(here, 1)
    (got * weight).sum().backward()
    want = x.square().mean(1, keepdim=True).sqrt()
    slope = x / (6 * want).masked_fill(want == 0, 1)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    if dtype == torch.float64:
        close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    close(got.double(), want)
    assert here.grad is not None
    close(here.grad.double(), weight * slope)
    assert here.grad[0, :, 1, 1].abs().max() == 0
    tangent = torch.func.jvp(lambda y: rms(y, 1), (here.detach(),), (dx.to(dtype),))[1]
    nonzero = want > 0
    wanted = (slope * dx).sum(1, keepdim=True)
    close(tangent.double()[nonzero], wanted[nonzero])
