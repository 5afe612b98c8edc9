"""Random students of a few blocks, and the runs that they would be of."""

from __future__ import annotations

from typing import Any

import torch

from models.network import FLAVOURS, NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.recipes import ConsistencyRecipe
from scaling.config.sections import Ema, Evaluation, Sampling
from scaling.run.spec import RunData, RunSpec


def student(
    flavour: str = "trigflow",
    *,
    resolution: int = 8,
    levels: int = 2,
    classes: int = 10,
    guidance: tuple[float, float] | None = None,
    encoder: str = "fashion-s2d-v1",
    **recipe: Any,
) -> tuple[TrigFlowNet, RunSpec]:
    """A network of random weights whose gains are one, so that every part of it counts."""
    shape = NetworkConfig(
        resolution=resolution,
        latent_channels=4,
        num_classes=classes,
        model_channels=8,
        channel_mult=(1, 2)[:levels],
        blocks_per_level=1,
        attention_resolutions=(resolution >> levels - 1,),
        head_channels=8,
        guidance=guidance is not None,
        second_time=recipe.get("flow_map", False),
        **FLAVOURS[flavour],
    )
    net = TrigFlowNet(shape)
    net.reset_parameters(torch.Generator().manual_seed(0))
    for parameter in net.parameters():
        if parameter.numel() == 1:
            parameter.data.fill_(1.0)
    spec = RunSpec(
        method="sct",
        size="tiny",
        seed=0,
        precision="fp32",
        network=shape.describe(),
        data=RunData(content_sha256="", held_out_sha256="", encoder=encoder),
        recipe=ConsistencyRecipe(steps=1, lr=0.01, guidance=guidance, start="scratch", **recipe),
        ema=Ema(),
        sampling=Sampling(intermediate_t=1.1, student_guidance={1: 1.0, 2: 1.0} if guidance else {}),
        evaluation=Evaluation(),
        max_nonfinite_steps=1,
        weights=None,
        teacher=None,
        student=None,
    )
    return net.eval().requires_grad_(False), spec


def noises(net: TrigFlowNet, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """noise, renoise ~ N(0, I) [B, C, H, W] and labels [B] with one of no class."""
    config, generator = net.config, torch.Generator().manual_seed(1)
    shape = (count, config.latent_channels, config.resolution, config.resolution)
    noise, renoise = (torch.randn(shape, generator=generator) for _ in range(2))
    return noise, renoise, torch.arange(count) % (config.num_classes + 1) - 1


def own_samples(
    net: TrigFlowNet,
    noise: torch.Tensor,
    renoise: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """Our samples [B, C, H, W] from that noise."""
    from scaling.sampling.samplers import sample_student

    return sample_student(lambda x, t: net(x, t, labels, **inputs), 0.5 * noise, 0.5 * renoise, steps, 1.1)
