"""A small network in every kind, and inputs for it, shared by the tests of networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.dropout import Dropout
from models.dual import Dual
from models.network import FLAVOURS, NetworkConfig
from models.trigflow import TrigFlowNet

CONFIG = NetworkConfig(8, 4, 10, 16, (1, 2), 1, (4,), head_channels=8)
KINDS: dict[str, dict[str, Any]] = {
    **FLAVOURS,
    "fourier of scale 16": {"time_embedding": "fourier", "fourier_scale": 16.0},
    "log sigma": {"time_input": "log_sigma"},
    "guided": {"guidance": True},
    "no classes": {"num_classes": 0},
}


def network(dtype: torch.dtype = torch.float64, config: NetworkConfig = CONFIG, **changes: Any) -> TrigFlowNet:
    """A small network whose gains are not zero, so that every path counts."""
    net = TrigFlowNet(replace(config, **changes))
    net.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    return net.to(dtype)


def inputs(dtype: torch.dtype = torch.float64, times: tuple[float, ...] = (0.3, 0.9, 1.5)) -> list[Tensor]:
    """x, t, their tangents, labels."""
    generator = torch.Generator().manual_seed(1)
    n = len(times)
    x, tx = torch.randn(2, n, 4, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return [x, torch.tensor(times, dtype=dtype), tx, torch.randn(n, generator=generator).to(dtype), torch.arange(n) - 1]


def dual_forward(net: TrigFlowNet, drop: Dropout | None = None) -> tuple[Dual, Tensor]:
    """F and its tangent, and the weighting."""
    x, t, tx, tt, labels = inputs(next(net.parameters()).dtype)
    guidance = 1 + t if net.config.guidance else None
    return net(Dual(x, tx), Dual(t, tt), labels, guidance=guidance, drop=drop, with_weight=True)


def plain_forward(net: TrigFlowNet, drop: Dropout | None = None) -> tuple[Tensor, Tensor]:
    """F and the weighting."""
    x, t, _, _, labels = inputs(next(net.parameters()).dtype)
    guidance = 1 + t if net.config.guidance else None
    return net(x, t, labels, guidance=guidance, drop=drop, with_weight=True)
