"""Loads and samples the release beside this file with torch and safetensors alone. Written by trigscale (Apache-2.0).

    python sample.py --to samples.ppm --steps 2 --classes 0,1,2 --seed 0
"""  # fmt: skip

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F


def load(folder):
    """config.json and the weights by name, float32 on the CPU, from one file or from those that an index names."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    weights = {key: value.float() for name in sorted(names) for key, value in load_file(folder / name).items()}
    return json.loads((folder / "config.json").read_text()), weights


def layer(weights, name, x, gain=1.0):
    """Linear layer or convolution by the weight of RMS one an output, times gain / sqrt(fan in) (EDM2, Eq. 47)."""
    weight = weights[name + ".weight"]
    fan_in = weight[0].numel()
    rms = torch.linalg.vector_norm(weight.flatten(1), dim=1) / math.sqrt(fan_in)
    scale = 1 / (1e-4 + rms) * (gain / math.sqrt(fan_in))
    weight = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).to(x.dtype)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2) if weight.ndim == 4 else F.linear(x, weight)


def norm(x, dim=1):
    rms = x.square().mean(dim, keepdim=True).sqrt() if x.ndim > 2 else x.norm(dim=dim, keepdim=True) / math.sqrt(x.shape[dim])
    return x * (1 / (1e-4 + rms))


def silu(x):
    return F.silu(x) / 0.596


def mix(a, b, t):
    return torch.lerp(a, b, t) * (1 / math.hypot(1 - t, t))


def cosine(weights, name, c):
    return math.sqrt(2) * torch.cos(torch.outer(c, weights[name + ".freqs"]) + weights[name + ".phases"])


def block(weights, config, name, x, emb):
    """One residual block (EDM2, Fig. 22): [B, i, H, W] and an embedding [B, E] -> [B, o, H', W']."""
    decoder = ".dec." in name
    if name.endswith("_down"):
        x = F.avg_pool2d(x, 2)
    if name.endswith("_up"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    skip = layer(weights, name + ".conv_skip", x) if name + ".conv_skip.weight" in weights else x
    x = x if decoder else norm(skip)
    factor = 1 + layer(weights, name + ".emb_linear", emb, weights[name + ".emb_gain"])
    factor = norm(factor) if config["modulation_norm"] == "double" else factor
    y = silu(layer(weights, name + ".conv_res0", silu(x)) * factor[:, :, None, None])
    x = mix(skip if decoder else x, layer(weights, name + ".conv_res1", y), 0.3)
    if name + ".attn_qkv.weight" in weights:
        heads = x.shape[1] // config["head_channels"]
        qkv = layer(weights, name + ".attn_qkv", x)
        q, k, v = norm(qkv.reshape(len(x), heads, -1, 3, x[0, 0].numel()), 2).permute(3, 0, 1, 4, 2)
        y = (torch.softmax(q.shape[-1] ** -0.5 * q @ k.mT, -1) @ v).mT.reshape(x.shape)
        x = mix(x, layer(weights, name + ".attn_proj", y), 0.3)
    return x.clamp(-256, 256)


def network(weights, config, x, t, labels, guidance=None):
    """F [B, C, H, W] at x / sigma_data, t [B], labels int64 [B] (-1: none), guidance strengths [B] of a guided student."""
    c = t if config["time_input"] == "t" else torch.log(0.5 * torch.tan(t)) / 4
    emb = layer(weights, "unet.emb_noise", cosine(weights, "unet.emb_fourier", c))
    if config["guidance"]:
        strength = cosine(weights, "unet.emb_guidance_fourier", guidance)
        emb = emb + layer(weights, "unet.emb_guidance", strength, weights["unet.emb_guidance_gain"])
    if n := config["num_classes"]:
        one_hot = (labels[:, None] == torch.arange(n, device=labels.device)).to(x.dtype)
        emb = mix(emb, layer(weights, "unet.emb_label", one_hot * math.sqrt(n)), 0.5)
    emb, levels = silu(emb), [config["resolution"] >> level for level in range(len(config["channel_mult"]))]
    x = layer(weights, f"unet.enc.{levels[0]}x{levels[0]}_conv", torch.cat([x, torch.ones_like(x[:, :1])], 1))
    skips = [x]
    for level, size in enumerate(levels):
        for part in ["down"] * (level > 0) + [f"block{n}" for n in range(config["blocks_per_level"])]:
            x = block(weights, config, f"unet.enc.{size}x{size}_{part}", x, emb)
            skips.append(x)
    for level, size in reversed([*enumerate(levels)]):
        for part in (["in0", "in1"] if level == len(levels) - 1 else ["up"]) + [
            f"block{n}" for n in range(config["blocks_per_level"] + 1)
        ]:
            if part.startswith("block"):
                a, b = x.shape[1], skips[-1].shape[1]
                scale = math.sqrt((a + b) / 2)
                x = torch.cat([x * (scale / math.sqrt(a)), skips.pop() * (scale / math.sqrt(b))], 1)
            x = block(weights, config, f"unet.dec.{size}x{size}_{part}", x, emb)
    return layer(weights, "unet.out_conv", x, weights["unet.out_gain"])
