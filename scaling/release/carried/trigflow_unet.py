"""The network of this folder as a model of diffusers. Written by trigscale (Apache-2.0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn

from .sample import network


@dataclass
class TrigFlowOutput(BaseOutput):
    """sample: F [B, C, H, W]."""

    sample: Tensor


class TrigFlowUNet(ModelMixin, ConfigMixin):
    """F of a consistency model: the U-Net of EDM2 config G, as it is or in its TrigFlow flavour.

    net: keys of its shape. tensors: the shape of each weight by name. sigma_data, t_max, intermediate_t: how it is
    sampled. encoder: what stands between images and what it sees. guidance: the strengths that it saw, None for none.
    """

    @register_to_config
    def __init__(
        self,
        net: dict[str, Any],
        tensors: dict[str, list[int]],
        sigma_data: float = 0.5,
        t_max: float = math.atan(160),
        intermediate_t: float = 1.1,
        encoder: dict[str, Any] | None = None,
        guidance: list[float] | None = None,
    ) -> None:
        super().__init__()
        for name, shape in tensors.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            if last in ("freqs", "phases"):
                module.register_buffer(last, torch.zeros(shape))
            else:
                module.register_parameter(last, nn.Parameter(torch.zeros(shape)))

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor, guidance: Tensor | None = None
    ) -> TrigFlowOutput:
        """F at x_t / sigma_data [B, C, H, W], t [B] in radians, labels int64 [B], guidance [B].

        Raises ValueError where the weights are not in float32: half precision rounds the frequencies of time.
        """
        if self.dtype != torch.float32:
            raise ValueError(f"the weights are in {self.dtype}: load them with torch_dtype=torch.float32")
        net: Any = self.config["net"]
        return TrigFlowOutput(network(self.state_dict(), net, sample, timestep, class_labels, guidance))
