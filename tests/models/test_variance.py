"""Unit variance, as the EDM2 paper promises: of every primitive, every block and the whole network at the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.dropout import Dropout, dropout
from models.embedding import CosineEmbedding, noise_condition
from models.network import FLAVOURS, NetworkConfig
from models.primitives import MPLinear, mp_cat, mp_silu, mp_sum, pixel_norm, resample
from models.trigflow import TrigFlowNet
from models.unet import Block

WIDE = NetworkConfig(32, 4, 10, 64, (1, 2), 3, (16,))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rms(x: Any) -> float:
    assert isinstance(x, Tensor)
    return x.square().mean().sqrt().item()


def layer(i: int, o: int, kernel: tuple[int, ...] = ()) -> MPLinear:
    module = MPLinear(i, o, kernel)
    module.reset_parameters(torch.Generator().manual_seed(1))
    return module


def embedding(kind: Any) -> Tensor:
    module = CosineEmbedding(512, kind)
    module.reset_parameters(torch.Generator().manual_seed(2))
    result = module(torch.linspace(0.01, 1.56, 64))
    assert isinstance(result, Tensor)
    return result


A, B = draw(3, 8, 64, 32, 32), draw(4, 8, 64, 32, 32)
PRIMITIVES: dict[str, Callable[[], Any]] = {
    "pixel_norm": lambda: pixel_norm(3 * A),
    "mp_silu": lambda: mp_silu(A),
    "mp_sum": lambda: mp_sum(A, B, 0.3),
    "mp_cat": lambda: mp_cat(A, B),
    "mp_cat of two widths": lambda: mp_cat(A, B[:, :16]),
    "up": lambda: resample(A, "up"),
    "1x1 convolution": lambda: layer(64, 96, (1, 1))(A),
    "linear": lambda: layer(64, 4096)(A.movedim(1, 3).reshape(-1, 64)[:1000]),
    "positional embedding": lambda: embedding("positional"),
    "Fourier embedding": lambda: embedding("fourier"),
    "one-hot label": lambda: layer(10, 8192)(torch.eye(10) * math.sqrt(10)),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives(name: str) -> None:
    """Inputs of magnitude one give an output of magnitude one."""
    with torch.no_grad():
        assert rms(PRIMITIVES[name]()) == pytest.approx(1, abs=0.02)


def test_a_convolution_loses_variance_at_the_border_alone() -> None:
    with torch.no_grad():
        out = layer(64, 96, (3, 3))(A)
    assert isinstance(out, Tensor)
    assert rms(out[..., 1:-1, 1:-1]) == pytest.approx(1, abs=0.02)
    assert rms(out[..., 0, 1:-1]) == pytest.approx(math.sqrt(6 / 9), abs=0.02)  # three of nine weights see zeros


def test_what_does_not_keep_it_by_design() -> None:
    """A 2x2 mean halves the RMS of white noise, and dropout multiplies the power by 1 / (1 - rate)."""
    assert rms(resample(A, "down")) == pytest.approx(0.5, abs=0.01)
    assert rms(dropout(A, Dropout(0.36, torch.arange(8)))) == pytest.approx(1 / math.sqrt(0.64), abs=0.01)


@pytest.mark.parametrize("attention", [(), (16,)], ids=("without attention", "with attention"))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_whole_network_at_initialisation(flavour: str, attention: tuple[int, ...]) -> None:
    """Every block and the output, with the output's gain at one.

    The decoder has no norm of its own: what borders lose stays lost, and attention, which averages, adds to it.
    """
    net = TrigFlowNet(replace(WIDE, **FLAVOURS[flavour], attention_resolutions=attention))
    net.reset_parameters(torch.Generator().manual_seed(0))
    nn.init.ones_(net.unet.out_gain)
    seen: list[float] = []
    for module in net.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(rms(output)))
    labels = torch.arange(8)
    with torch.no_grad():
        out = net(draw(5, 8, 4, 32, 32), torch.linspace(0.05, 1.5, 8), labels)
        embedded = net.unet.embed(noise_condition(torch.linspace(0.05, 1.5, 8), net.config.time_input), labels)
    assert len(seen) == 18
    least = 0.8 if attention else 0.9
    assert all(least < magnitude < 1.08 for magnitude in seen), " ".join(f"{m:.3f}" for m in seen)
    assert rms(embedded) == pytest.approx(1, abs=0.05)
    assert rms(out) == pytest.approx(1, abs=0.2)  # four channels alone: their weights happen to agree with the features
