"""A network that is evaluated and not trained, its weights normalised once and for all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dual import Signal
from models.primitives import MPLinear, apply_weight
from models.trigflow import TrigFlowNet
from models.unet import Block


class BakedLinear(nn.Module):
    """An `MPLinear` whose weight is the effective one, gain included; the gain that it is called with is ignored."""

    def __init__(self, weight: Tensor, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.kernel = kernel

    def forward(self, x: Signal, gain: Tensor | float = 1.0) -> Signal:
        """[B, i, ...] -> [B, o, ...]."""
        return apply_weight(self.weight, self.kernel, x)


@torch.no_grad()
def bake(net: TrigFlowNet, dtype: torch.dtype | None = None) -> TrigFlowNet:
    """The same function F, from effective weights in `dtype`: to the bit, if autocast would cast them to it anyway.

    It changes `net` and returns it. dtype: that of the autocast that it will run under; None without autocast. Its
    state dict is no longer that of a TrigFlowNet in training. A whole network is baked before it is sharded.
    """
    gains: dict[nn.Module, Tensor] = {net.unet.out_conv: net.unet.out_gain}
    gains |= {block.emb_linear: block.emb_gain for block in net.modules() if isinstance(block, Block)}
    if net.config.guidance:
        gains[net.unet.emb_guidance] = net.unet.emb_guidance_gain
    if net.config.second_time:
        gains[net.unet.emb_to] = net.unet.emb_to_gain
    for parent in [*net.modules()]:
        for name, layer in parent.named_children():
            if isinstance(layer, MPLinear):
                weight = layer.effective_weight(gains.get(layer, 1.0)).detach()
                setattr(parent, name, BakedLinear(weight.to(dtype or weight.dtype), layer.kernel))
    return net.requires_grad_(False)
