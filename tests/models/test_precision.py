"""The tangent of the whole network in fp32, bf16 and fp16 against float64, up to the ends of time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.dual import Dual
from models.network import FLAVOURS, SIGMA_DATA, T_MAX
from models.trigflow import TrigFlowNet, add_noise, expand, velocity
from tests.models.networks import network

# Unit roundoffs: half of the distance from 1 to the next number.
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST_HALF = 2.0**-24
MIDDLE = (0.01, 0.3, 0.9, 1.5)
ENDS = (1e-6, 1e-4, 1e-3, T_MAX, math.pi / 2 - 1e-4, math.pi / 2 - 1e-6)


def tangent(net: TrigFlowNet, times: tuple[float, ...], half: torch.dtype | None, rearranged: bool = True) -> Tensor:
    """The JVP of Algorithm 1 on data of standard deviation SIGMA_DATA, under autocast to `half`: float64 [B, C, H, W].

    Rearranged: in direction cos t sin t (dx/dt, sigma_data). As is: in direction (dx/dt / sigma_data, 1).
    """
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(3)
    x0, z = SIGMA_DATA * torch.randn(2, len(times), 4, 8, 8, generator=generator, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float32).double()  # as every precision sees it: near pi/2 it is rounded
    speed = t.cos() * t.sin() if rearranged else torch.full_like(t, 1 / SIGMA_DATA)
    tx, tt = expand(speed, x0) * velocity(x0, z, t), speed * SIGMA_DATA
    x, tx, t, tt = (value.to(dtype) for value in (add_noise(x0, z, t) / SIGMA_DATA, tx, t, tt))
    with torch.no_grad(), torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        f, _ = net(Dual(x, tx), Dual(t, tt), torch.arange(len(times)) - 1, with_weight=True)
    return f.tangent.double()


def rms(x: Tensor) -> Tensor:
    """Of each sample, [B]."""
    return x.square().mean((1, 2, 3)).sqrt()


@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize(
    ("kind", "times"),
    [("trigflow", MIDDLE), ("trigflow", ENDS), ("edm2", MIDDLE), ("edm2", ENDS[:3])],
    ids=("trigflow", "trigflow at the ends", "edm2", "edm2 near 0"),
)
def test_error_is_that_of_rounding(kind: str, times: tuple[float, ...], dtype: torch.dtype) -> None:
    """Relative RMS error of each sample within 32 roundoffs; in fp16 tangents smaller than its smallest number go.

    EDM's c_noise = log(sigma) / 4 is left out at pi/2, where float32 cannot tell times apart.
    """
    want = tangent(network(**FLAVOURS[kind]), times, None)
    half = None if dtype is torch.float32 else dtype
    got = tangent(network(torch.float32, **FLAVOURS[kind]), times, half)
    floor = 4 * SMALLEST_HALF if dtype is torch.float16 else 0.0
    assert (rms(got - want) <= 32 * ROUNDOFF[dtype] * rms(want) + floor).all()
    assert (rms(got - want) > 0).all()


@pytest.mark.parametrize("kind", FLAVOURS)
def test_fp16_is_finite_at_the_ends_with_the_rearranged_jvp(kind: str) -> None:
    net = network(torch.float32, **FLAVOURS[kind])
    assert tangent(net, ENDS, torch.float16).isfinite().all()


def test_fp16_overflows_without_the_rearrangement() -> None:
    """EDM's c_noise has slope 1 / (4 sin t cos t): in fp16 the plain JVP is lost at both ends, in float32 it is not.

    With c_noise = t the slope is 1, and a network at random weights stays finite both ways.
    """
    edm2: dict[str, Any] = FLAVOURS["edm2"]
    net = network(torch.float32, **edm2)
    lost = ~tangent(net, ENDS, torch.float16, rearranged=False).isfinite().flatten(1).all(1)
    assert lost[[0, 4, 5]].all()
    assert tangent(net, ENDS, None, rearranged=False).isfinite().all()
    assert tangent(network(torch.float32), ENDS, torch.float16, rearranged=False).isfinite().all()
