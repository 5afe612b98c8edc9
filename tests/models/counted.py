"""What torch counts in a network that is built on the meta device: the oracle of the closed forms in models.shape."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.network import NetworkConfig
from models.shape import Shapes
from models.trigflow import TrigFlowNet
from models.unet import Block


def built(config: NetworkConfig) -> TrigFlowNet:
    """The network without any numbers."""
    with torch.device("meta"):
        return TrigFlowNet(config)


def shapes_of(net: TrigFlowNet) -> Shapes:
    """Tensors, elements of the root and of each block, and buffers."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in net.modules() if isinstance(block, Block)]
    total = sum(p.numel() for p in net.parameters())
    tensors = tuple(tuple(p.shape) for p in net.parameters())
    return Shapes(tensors, (total - sum(blocks), *blocks), sum(b.numel() for b in net.buffers()))


def macs_of(net: TrigFlowNet) -> int:
    """Multiply-adds of one forward pass of one sample: half of what FlopCounterMode counts."""
    config = net.config
    with torch.device("meta"):
        x = torch.empty(1, config.latent_channels, config.resolution, config.resolution)
        t, labels = torch.empty(1), torch.zeros(1, dtype=torch.int64)
        guidance = torch.empty(1) if config.guidance else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, t, labels, guidance=guidance)
    return counter.get_total_flops() // 2
