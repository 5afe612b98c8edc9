"""One- and two-step sampling of a consistency model in diffusers. Written by trigscale (Apache-2.0).

The scheduler is diffusers' own SCMScheduler. What it leaves to a pipeline: noise of standard deviation sigma_data, a
network that sees x / sigma_data and whose output counts in units of sigma_data, t_max = arctan(80 / sigma_data) where
its own default lies beyond pi / 2, and noise that is given and not drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional as F


class TrigFlowPipeline(DiffusionPipeline):
    """Samples by class: `pipe(class_labels=[3, 7], num_inference_steps=2).images`."""

    _optional_components = ["vae"]  # noqa: RUF012

    def __init__(self, unet: Any, scheduler: Any, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | Tensor,
        num_inference_steps: int = 1,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: Tensor | None = None,
        renoise: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """A sample a class (-1: of no class), in one step or two.

        noise, renoise: N(0, I) [B, C, H, W] of the first step and of the second; drawn from `generator` unless given.
        output_type: "pil"; "np" or "pt", uint8 [B, H, W, C]; "latent", what the network makes [B, C, H, W].
        """
        if num_inference_steps not in (1, 2):
            raise ValueError(f"num_inference_steps {num_inference_steps}: a consistency model takes 1 or 2")
        config, device = self.unet.config, self._execution_device
        labels = torch.as_tensor(class_labels, device=device)
        net, sigma, middle = config["net"], config["sigma_data"], config["intermediate_t"]
        guidance = torch.full(labels.shape, float(guidance_scale), device=device) if net["guidance"] else None
        if guidance is None and guidance_scale != 1:
            raise ValueError(f"guidance_scale {guidance_scale}: this network takes none")
        shape = (len(labels), net["latent_channels"], net["resolution"], net["resolution"])
        noise = randn_tensor(shape, generator, device) if noise is None else noise.to(device)
        self.scheduler.set_timesteps(
            num_inference_steps,
            device=device,
            max_timesteps=config["t_max"],
            intermediate_timesteps=middle if num_inference_steps == 2 else None,
        )
        x = sigma * noise
        for n, t in enumerate(self.scheduler.timesteps[:-1]):
            f = self.unet(x / sigma, t.expand(len(x)), labels, guidance).sample
            step = self.scheduler.step(sigma * f, t, x, generator=generator)
            x = step.prev_sample
            if n == 0 and num_inference_steps == 2 and renoise is not None:
                x = math.cos(middle) * step.pred_original_sample + math.sin(middle) * sigma * renoise.to(device)
        images = x if output_type == "latent" else self._images(x, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    def _images(self, x: Tensor, output_type: str) -> Any:
        encoder = self.unet.config["encoder"]
        mean, std = torch.tensor([encoder["mean"], encoder["std"]], device=x.device)[:, :, None, None]
        z, low = x * (std / self.unet.config["sigma_data"]) + mean, -1.0
        if encoder["map"] == "vae":
            if self.vae is None:
                raise ValueError(
                    f"the VAE of encoder {encoder['name']!r} is not here: from_pretrained(..., vae=AutoencoderKL...), "
                    'or output_type="latent"'
                )
            z, low = self.vae.decode(z).sample, encoder["vae"]["low"]
        elif encoder["map"] == "space-to-depth-2":
            z = F.pixel_shuffle(z, 2)
        pixels = ((z - low) * (255 / (1 - low))).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
        if output_type == "pt":
            return pixels
        return pixels.numpy() if output_type == "np" else self.numpy_to_pil(pixels.numpy() / 255.0)
