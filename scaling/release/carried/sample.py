"""Loads and samples the release beside this file with torch and safetensors alone. Written by trigscale (Apache-2.0).

python sample.py --to samples.ppm --steps 2 --classes 0,1,2 --seed 0
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

Config = dict[str, Any]
Weights = dict[str, Tensor]


def load(folder: str | Path) -> tuple[Config, Weights]:
    """config.json, and the weights by name in float32, from one file or from those that an index names."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    weights = {key: value.float() for name in names for key, value in load_file(folder / name).items()}
    return json.loads((folder / "config.json").read_text()), weights


def layer(weights: Weights, name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Linear layer or convolution whose weight has RMS gain / sqrt(fan in) (EDM2, Eq. 47)."""
    weight = weights[name + ".weight"]
    fan_in = weight[0].numel()
    rms = torch.linalg.vector_norm(weight.flatten(1), dim=1) / math.sqrt(fan_in)
    scale = 1 / (1e-4 + rms) * (gain / math.sqrt(fan_in))
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2) if weight.ndim == 4 else F.linear(x, weight)


def norm(x: Tensor, dim: int = 1) -> Tensor:
    """x divided by its RMS over `dim`, computed in the order of operations that trigscale takes."""
    if x.ndim == 2:
        return x * (1 / (1e-4 + torch.linalg.vector_norm(x, dim=dim, keepdim=True) / math.sqrt(x.shape[dim])))
    return x * (1 / (1e-4 + x.square().mean(dim, keepdim=True).sqrt()))


def silu(x: Tensor) -> Tensor:
    """Of magnitude one where x is."""
    return F.silu(x) / 0.596


def mix(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Of magnitude one where a and b are."""
    return torch.lerp(a, b, t) * (1 / math.hypot(1 - t, t))


def cosine(weights: Weights, name: str, c: Tensor) -> Tensor:
    """The embedding of numbers [B]: [B, E]."""
    return math.sqrt(2) * torch.cos(torch.outer(c, weights[name + ".freqs"]) + weights[name + ".phases"])


def block(weights: Weights, net: Config, name: str, x: Tensor, emb: Tensor) -> Tensor:
    """One residual block (EDM2, Fig. 22): [B, i, H, W] and an embedding [B, E] -> [B, o, H', W']."""
    if name.endswith("_down"):
        x = F.avg_pool2d(x, 2)
    elif name.endswith("_up"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    skip = layer(weights, name + ".conv_skip", x) if name + ".conv_skip.weight" in weights else x
    if ".enc." in name:
        x = skip = norm(skip)
    factor = 1 + layer(weights, name + ".emb_linear", emb, weights[name + ".emb_gain"])
    factor = norm(factor) if net["modulation_norm"] == "double" else factor
    y = silu(layer(weights, name + ".conv_res0", silu(x)) * factor[:, :, None, None])
    x = mix(skip, layer(weights, name + ".conv_res1", y), 0.3)
    if name + ".attn_qkv.weight" in weights:
        heads = x.shape[1] // net["head_channels"]
        qkv = layer(weights, name + ".attn_qkv", x).reshape(len(x), heads, -1, 3, x[0, 0].numel())
        q, k, v = norm(qkv, 2).permute(3, 0, 1, 4, 2)
        y = torch.softmax(q.shape[-1] ** -0.5 * q @ k.mT, -1) @ v
        x = mix(x, layer(weights, name + ".attn_proj", y.mT.reshape(x.shape)), 0.3)
    return x.clamp(-256, 256)


def network(
    weights: Weights,
    net: Config,
    x: Tensor,
    t: Tensor,
    labels: Tensor,
    guidance: Tensor | None = None,
    to: Tensor | None = None,
) -> Tensor:
    """F [B, C, H, W] at x / sigma_data, t [B], labels int64 [B] (-1: none).

    guidance [B] of a guided student; to [B]: the time that a flow map is told to lead to.
    """
    c = t if net["time_input"] == "t" else torch.log(0.5 * torch.tan(t)) / 4
    emb = layer(weights, "unet.emb_noise", cosine(weights, "unet.emb_fourier", c))
    if guidance is not None:
        strength = cosine(weights, "unet.emb_guidance_fourier", guidance)
        emb = emb + layer(weights, "unet.emb_guidance", strength, weights["unet.emb_guidance_gain"])
    if to is not None:
        emb = emb + layer(
            weights, "unet.emb_to", cosine(weights, "unet.emb_to_fourier", to), weights["unet.emb_to_gain"]
        )
    if net["num_classes"]:
        one_hot = (labels[:, None] == torch.arange(net["num_classes"], device=labels.device)).to(x.dtype)
        emb = mix(emb, layer(weights, "unet.emb_label", one_hot * math.sqrt(net["num_classes"])), 0.5)
    emb, depth, blocks = silu(emb), len(net["channel_mult"]), range(net["blocks_per_level"] + 1)
    names = [f"{net['resolution'] >> level}x{net['resolution'] >> level}_" for level in range(depth)]
    x = layer(weights, f"unet.enc.{names[0]}conv", torch.cat([x, torch.ones_like(x[:, :1])], 1))
    skips = [x]
    for level, name in enumerate(names):
        for part in ["down"] * (level > 0) + [f"block{n}" for n in blocks[:-1]]:
            x = block(weights, net, f"unet.enc.{name}{part}", x, emb)
            skips.append(x)
    for level, name in reversed([*enumerate(names)]):
        for part in (["in0", "in1"] if level == depth - 1 else ["up"]) + [f"block{n}" for n in blocks]:
            if part.startswith("block"):
                a, b = x.shape[1], skips[-1].shape[1]
                scale = math.sqrt((a + b) / 2)
                x = torch.cat([x * (scale / math.sqrt(a)), skips.pop() * (scale / math.sqrt(b))], 1)
            x = block(weights, net, f"unet.dec.{name}{part}", x, emb)
    return layer(weights, "unet.out_conv", x, weights["unet.out_gain"])


@torch.no_grad()
def sample(
    config: Config,
    weights: Weights,
    noise: Tensor,
    renoise: Tensor,
    labels: Tensor,
    steps: int,
    guidance: Tensor | None = None,
) -> Tensor:
    """Samples [B, C, H, W] of standard deviation 0.5, as is the noise: a teacher's by Heun, a student's by its kind.

    In 1 or 2 steps; from one end of its segments to the next; or led by a flow map, in two steps by way of a time.
    """
    sampling = config["sampling"] or {}
    if sampling.get("sampler") in ("segments", "flow_map"):
        return walk(config, weights, noise, labels, steps, guidance)

    def denoise(x: Tensor, angle: float) -> Tensor:
        t = x.new_full((len(x), 1, 1, 1), angle)
        f = network(weights, config["network"], x / 0.5, t.flatten(), labels, guidance)
        return torch.cos(t) * x - torch.sin(t) * 0.5 * f

    def slope(x: Tensor, sigma: float) -> Tensor:
        angle = math.atan(sigma / 0.5)
        return (x - denoise(x * math.cos(angle), angle)) / sigma

    if config["kind"] == "student":
        x, angle = denoise(noise, config["t_max"]), sampling["intermediate_t"]
        return x if steps == 1 else denoise(math.cos(angle) * x + math.sin(angle) * renoise, angle)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(high + n / max(steps - 1, 1) * (low - high)) ** 7 for n in range(steps)] + [0.0]
    x = noise * (sigmas[0] / 0.5)
    for now, then in pairwise(sigmas):
        first = slope(x, now)
        end = x + (then - now) * first
        x = x + (then - now) / 2 * (first + slope(end, then)) if then else end
    return x


def walk(
    config: Config, weights: Weights, noise: Tensor, labels: Tensor, steps: int, guidance: Tensor | None
) -> Tensor:
    """From t_max by the given times to 0, without new noise: x_s = cos(t - s) x - sin(t - s) 0.5 F."""
    sampling, end = config["sampling"], config["t_max"]
    told = sampling["sampler"] == "flow_map"
    if told and steps not in (1, 2):
        raise ValueError(f"a flow map is sampled in 1 or 2 steps: not {steps}")
    if not told and steps not in sampling["steps"]:
        raise ValueError(f"trained in {sampling['steps'][0]} segments, which are its steps: not {steps}")
    between = [sampling["intermediate_t"]] if steps == 2 else []
    times = [end, *between, 0.0] if told else [end * (1 - n / steps) for n in range(steps + 1)]
    x = noise
    for now, then in pairwise(times):
        t, to = x.new_full((len(x),), now), x.new_full((len(x),), then) if told else None
        f = network(weights, config["network"], x / 0.5, t, labels, guidance, to)
        x = math.cos(now - then) * x - math.sin(now - then) * 0.5 * f
    return x


def decode(encoder: Config, x: Tensor) -> Tensor:
    """Images uint8 [B, H, W, C] of samples; of a VAE's, the latents [B, C, H, W] that its decoder takes."""
    mean, std = torch.tensor([encoder["mean"], encoder["std"]])[:, :, None, None]
    z = x * (std / 0.5) + mean
    if encoder["map"] == "vae":
        return z
    z = F.pixel_shuffle(z, 2) if encoder["map"] == "space-to-depth-2" else z
    return ((z + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def main() -> None:
    """Draw a row of images."""
    config, weights = load(Path(__file__).parent)
    net, sampling = config["network"], config["sampling"] or {"steps": [18]}
    parser = argparse.ArgumentParser(description="Samples of the release beside this file.")
    parser.add_argument("--to", type=Path, required=True, help="FILE.ppm: a row of images; FILE.pt: the tensor")
    parser.add_argument("--steps", type=int, default=sampling["steps"][0])
    parser.add_argument("--classes", default="0,1,2,3,4,5,6,7", help="one sample each; -1: no class")
    parser.add_argument("--guidance", type=float, default=1.0, help="of a student that was distilled with guidance")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    labels = torch.tensor([int(label) for label in chosen.classes.split(",")])
    generator = torch.Generator().manual_seed(chosen.seed)
    shape = (len(labels), net["latent_channels"], net["resolution"], net["resolution"])
    noise, renoise = (0.5 * torch.randn(shape, generator=generator) for _ in range(2))
    guidance = torch.full(labels.shape, chosen.guidance) if net["guidance"] else None
    made = decode(config["encoder"], sample(config, weights, noise, renoise, labels, chosen.steps, guidance))
    if chosen.to.suffix == ".pt" or config["encoder"]["map"] == "vae":
        torch.save(made, chosen.to)
    else:
        row = torch.cat([*made.expand(-1, -1, -1, 3)], 1)
        chosen.to.write_bytes(b"P6 %d %d 255\n" % (row.shape[1], row.shape[0]) + row.numpy().tobytes())


if __name__ == "__main__":
    main()
