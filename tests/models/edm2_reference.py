"""EDM2's denoiser as functions of its stored tensors, written from the paper's description alone, for tests."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
DATA = 0.5


def denoiser(state: State, x: Tensor, sigma: Tensor, one_hot: Tensor | None, head_channels: int) -> Tensor:
    """D(x; sigma) for x [B, C, H, W], sigma [B] and classes [B, classes] (a row of zeros: no class)."""
    s = sigma[:, None, None, None]
    c_skip = DATA**2 / (s**2 + DATA**2)
    c_out = s * DATA / (s**2 + DATA**2) ** 0.5
    c_in = 1 / (DATA**2 + s**2) ** 0.5
    return c_skip * x + c_out * unet(state, c_in * x, sigma.log() / 4, one_hot, head_channels)


def unet(state: State, x: Tensor, c_noise: Tensor, one_hot: Tensor | None, head_channels: int) -> Tensor:
    """The raw network F."""
    freqs, phases = state["unet.emb_fourier.freqs"], state["unet.emb_fourier.phases"]
    emb = weighted(math.sqrt(2) * torch.cos(c_noise[:, None] * freqs + phases), state["unet.emb_noise.weight"])
    if one_hot is not None:
        label = weighted(one_hot * math.sqrt(one_hot.shape[1]), state["unet.emb_label.weight"])
        emb = balanced(emb, label, 0.5)
    emb = silu(emb)
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    skips = []
    for name in names(state, "unet.enc."):
        if name.endswith("_conv"):
            x = weighted(x, state[f"{name}.weight"])
        else:
            x = block(state, name, x, emb, head_channels)
        skips.append(x)
    for name in names(state, "unet.dec."):
        if "_block" in name:
            x = joined(x, skips.pop())
        x = block(state, name, x, emb, head_channels)
    assert not skips
    return weighted(x, state["unet.out_conv.weight"], state["unet.out_gain"])


def logvar(state: State, sigma: Tensor) -> Tensor:
    """The uncertainty u [B] that is trained beside the denoiser."""
    freqs, phases = state["logvar_fourier.freqs"], state["logvar_fourier.phases"]
    angles = (sigma.log() / 4)[:, None] * freqs + phases
    return weighted(math.sqrt(2) * torch.cos(angles), state["logvar_linear.weight"])[:, 0]


def block(state: State, name: str, x: Tensor, emb: Tensor, head_channels: int) -> Tensor:
    """One block of the encoder or decoder."""

    def skip(x: Tensor) -> Tensor:
        key = f"{name}.conv_skip.weight"
        return weighted(x, state[key]) if key in state else x

    encoder = ".enc." in name
    if name.endswith("_down"):
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    if name.endswith("_up"):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if encoder:
        x = unit(skip(x), 1)
    y = weighted(silu(x), state[f"{name}.conv_res0.weight"])
    scale = weighted(emb, state[f"{name}.emb_linear.weight"], state[f"{name}.emb_gain"]) + 1
    y = weighted(silu(y * scale[:, :, None, None]), state[f"{name}.conv_res1.weight"])
    if not encoder:
        x = skip(x)
    x = balanced(x, y, 0.3)
    if f"{name}.attn_qkv.weight" in state:
        qkv = weighted(x, state[f"{name}.attn_qkv.weight"])
        y = weighted(attention(qkv, head_channels), state[f"{name}.attn_proj.weight"])
        x = balanced(x, y, 0.3)
    return x.clip(-256, 256)


def attention(qkv: Tensor, head_channels: int) -> Tensor:
    """Channels are heads x width of a head x (q, k, v); there are as many heads of head_channels as have room."""
    b, c, h, w = qkv.shape
    heads = c // 3 // head_channels
    q, k, v = unit(qkv.reshape(b, heads, c // 3 // heads, 3, h * w), 2).unbind(3)
    shares = torch.einsum("bhcq,bhck->bhqk", q, k / math.sqrt(q.shape[2])).softmax(3)
    return torch.einsum("bhqk,bhck->bhcq", shares, v).reshape(b, c // 3, h, w)


def names(state: State, prefix: str) -> list[str]:
    """The layers below a prefix in the order of the file."""
    return list(dict.fromkeys(".".join(key.split(".")[:3]) for key in state if key.startswith(prefix)))


def unit(x: Tensor, dim: int) -> Tensor:
    """x over its RMS in one dimension."""
    return x / (1e-4 + (x**2).mean(dim, keepdim=True).sqrt())


def weighted(x: Tensor, weight: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Linear layer or convolution with a weight of unit magnitude."""
    flat = weight.reshape(len(weight), -1)
    weight = (unit(flat, 1) * gain / math.sqrt(flat.shape[1])).reshape(weight.shape)
    return x @ weight.T if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def silu(x: Tensor) -> Tensor:
    """Magnitude-preserving SiLU."""
    return x * torch.sigmoid(x) / 0.596


def balanced(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Magnitude-preserving sum."""
    return (a + t * (b - a)) / math.sqrt((1 - t) ** 2 + t**2)


def joined(a: Tensor, b: Tensor) -> Tensor:
    """Magnitude-preserving concatenation: a and b have equal shares of the power, which is one a channel."""
    total = a.shape[1] + b.shape[1]
    return torch.cat([a * math.sqrt(total / 2 / a.shape[1]), b * math.sqrt(total / 2 / b.shape[1])], 1)
