"""The U-Net of EDM2 config G (arXiv 2312.02696, Fig. 22) in its TrigFlow flavour (sCM, section 4).

Changes against EDM2: the network sees the time t itself (c_noise = t), through a positional embedding; the embedding's
scale is RMS-normalised over channels before it multiplies the features (the double normalisation of sCM, section 4.1,
for a network that has no shift: it adds no parameters and is the identity at initialisation); dropout acts only up to a
given resolution. Written in the operations of `models.dual`: on `Dual` inputs it gives F and its stop-gradient tangent.
Names of parameters are those of EDM2's files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.attention import attention, attention_jvp
from models.dual import Dual, Signal, combine, linear, nonlinear, product, value_of
from models.primitives import MPLinear, clip, dropout, mp_cat, mp_silu, mp_sum, pixel_norm, resample

RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
EMBEDDING_BALANCE = 0.5
CONCAT_BALANCE = 0.5
ACTIVATION_BOUND = 256.0


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of one network. Widths are in channels, resolutions in latent pixels."""

    resolution: int
    latent_channels: int
    num_classes: int
    model_channels: int
    channel_mult: tuple[int, ...]
    blocks_per_level: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    dropout_max_resolution: int = 16

    def __post_init__(self) -> None:
        halvings = 2 ** (len(self.channel_mult) - 1)
        if self.resolution % halvings:
            raise ValueError(
                f"resolution {self.resolution} does not divide by {halvings}: "
                f"channel_mult {list(self.channel_mult)} halves it {len(self.channel_mult) - 1} times"
            )
        for level, mult in enumerate(self.channel_mult):
            width = self.model_channels * mult
            if self.resolution >> level in self.attention_resolutions and width % self.head_channels:
                raise ValueError(
                    f"width {width} at resolution {self.resolution >> level} does not divide into heads of "
                    f"head_channels {self.head_channels}: change model_channels or head_channels"
                )


class TimeEmbedding(nn.Module):
    """sqrt(2) cos(frequency t + phase), [B] -> [B, channels], of magnitude one.

    Positional: frequencies 10000^(-i/half), each as cosine and sine, for bounded derivatives in t (sCM, section 4.1).
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"the time embedding needs an even number of channels, not {channels}")
        half = channels // 2
        freqs = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("freqs", torch.cat([freqs, freqs]).float())
        self.register_buffer("phases", torch.tensor([0.0, -math.pi / 2]).repeat_interleave(half))

    def forward(self, t: Signal) -> Signal:
        """[B] -> [B, channels]."""
        angle = linear(lambda value: torch.outer(value, self.freqs.to(value.dtype)), t)
        phases = self.phases
        return nonlinear(
            lambda value: math.sqrt(2) * torch.cos(value + phases.to(value.dtype)),
            lambda value, tangent, _: -math.sqrt(2) * torch.sin(value + phases.to(value.dtype)) * tangent,
            angle,
        )


def self_attention(qkv: Signal, heads: int) -> Signal:
    """Attention over all pixels of qkv [B, 3C, H, W], laid out as heads x width x (q, k, v): [B, C, H, W].

    q, k and v are pixel-normalised over the width of a head.
    """
    batch, channels, height, width = value_of(qkv).shape
    split = linear(lambda y: y.reshape(batch, heads, -1, 3, height * width), qkv)
    normed = linear(lambda y: y.permute(3, 0, 1, 4, 2), pixel_norm(split, dim=2))  # [3, B, heads, pixels, width]
    if isinstance(normed, Dual):
        q, k, v = normed.value
        out: Signal = Dual(*attention_jvp(q, k, v, *normed.tangent, tangent_grad=False))
    else:
        out = attention(*normed)
    return linear(lambda y: y.mT.reshape(batch, channels // 3, height, width), out)


class Block(nn.Module):
    """One residual block: [B, i, H, W] and an embedding [B, E] -> [B, o, H', W']."""

    def __init__(
        self, i: int, o: int, embedding: int, *, decoder: bool, resampling: str = "keep", heads: int = 0
    ) -> None:
        super().__init__()
        self.decoder, self.resampling, self.heads = decoder, resampling, heads
        self.emb_gain = nn.Parameter(torch.zeros(1))
        self.conv_res0 = MPLinear(i if decoder else o, o, (3, 3))
        self.emb_linear = MPLinear(embedding, o)
        self.conv_res1 = MPLinear(o, o, (3, 3))
        self.conv_skip = MPLinear(i, o, (1, 1)) if i != o else None
        if heads:
            self.attn_qkv = MPLinear(o, 3 * o, (1, 1))
            self.attn_proj = MPLinear(o, o, (1, 1))

    def forward(self, x: Signal, emb: Signal, drop: float = 0.0, seed: int = 0) -> Signal:
        """`drop` is the dropout rate, 0 outside training; `seed` gives its mask."""
        x = resample(x, self.resampling)
        if not self.decoder:
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = pixel_norm(x)
        y = mp_silu(product(self.conv_res0(mp_silu(x)), self.modulation(emb)))
        if drop:
            y = dropout(y, drop, seed)
        y = self.conv_res1(y)
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, RESIDUAL_BALANCE)
        if self.heads:
            x = mp_sum(x, self.attn_proj(self_attention(self.attn_qkv(x), self.heads)), ATTENTION_BALANCE)
        in_half = value_of(x).dtype == torch.float16  # the bound guards the range of half precision
        return clip(x, ACTIVATION_BOUND) if in_half else x

    def modulation(self, emb: Signal) -> Signal:
        """The factor of the features, [B, o, 1, 1]: pnorm(1 + gain * linear(emb)), one at initialisation."""
        factor = nonlinear(lambda y: y + 1, lambda _, tangent, __: tangent, self.emb_linear(emb, self.emb_gain))
        return linear(lambda y: y[:, :, None, None], pixel_norm(factor))


class UNet(nn.Module):
    """F(x, t, label): the network of TrigFlow and of consistency models (EDM2 config G without preconditioning)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.model_channels * mult for mult in config.channel_mult]
        embedding = max(widths)
        self.out_gain = nn.Parameter(torch.zeros(1))
        self.emb_fourier = TimeEmbedding(widths[0])
        self.emb_noise = MPLinear(widths[0], embedding)
        self.emb_label = MPLinear(config.num_classes, embedding) if config.num_classes else None
        self.enc, skips = self._encoder(widths, embedding)
        self.dec = self._decoder(widths, embedding, skips)
        self.out_conv = MPLinear(widths[0], config.latent_channels, (3, 3))

    def _heads(self, width: int, resolution: int) -> int:
        config = self.config
        return width // config.head_channels if resolution in config.attention_resolutions else 0

    def _encoder(self, widths: list[int], embedding: int) -> tuple[nn.ModuleDict, list[int]]:
        layers: dict[str, nn.Module] = {}
        skips: list[int] = []
        at = self.config.latent_channels + 1  # one more channel holds the constant 1 that replaces biases
        for level, width in enumerate(widths):
            res = self.config.resolution >> level
            if level == 0:
                layers[f"{res}x{res}_conv"] = MPLinear(at, width, (3, 3))
            else:
                layers[f"{res}x{res}_down"] = Block(
                    widths[level - 1], widths[level - 1], embedding, decoder=False, resampling="down"
                )
            at = width if level == 0 else widths[level - 1]
            skips.append(at)
            for n in range(self.config.blocks_per_level):
                heads = self._heads(width, res)
                layers[f"{res}x{res}_block{n}"] = Block(at, width, embedding, decoder=False, heads=heads)
                at = width
                skips.append(at)
        return nn.ModuleDict(layers), skips

    def _decoder(self, widths: list[int], embedding: int, skips: list[int]) -> nn.ModuleDict:
        layers: dict[str, nn.Module] = {}
        skips = list(skips)
        at = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            res = self.config.resolution >> level
            heads = self._heads(width, res)
            if level == len(widths) - 1:
                layers[f"{res}x{res}_in0"] = Block(at, at, embedding, decoder=True, heads=heads)
                layers[f"{res}x{res}_in1"] = Block(at, at, embedding, decoder=True)
            else:
                layers[f"{res}x{res}_up"] = Block(at, at, embedding, decoder=True, resampling="up")
            for n in range(self.config.blocks_per_level + 1):
                layers[f"{res}x{res}_block{n}"] = Block(at + skips.pop(), width, embedding, decoder=True, heads=heads)
                at = width
        return nn.ModuleDict(layers)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw every weight from `generator`; gains start at zero, so F starts as the zero function."""
        for module in self.modules():
            if isinstance(module, MPLinear):
                module.reset_parameters(generator)

    def forward(self, x: Signal, t: Signal, labels: Tensor, drop: float = 0.0, seed: int = 0) -> Signal:
        """F at x [B, C, H, W] (already divided by sigma_data), t [B], labels int64 [B] (-1: no label).

        On `Dual` x and t the result is a `Dual`. `drop` is the dropout rate (0 outside training) of the blocks at
        resolutions up to `dropout_max_resolution`; block number n draws its mask from seed + n.
        """
        emb = self.embed(t, labels)
        x = combine(lambda a, b: torch.cat([a, b], 1), x, torch.ones_like(value_of(x)[:, :1]))
        skips: list[Signal] = []
        for n, (name, layer) in enumerate(self.enc.items()):
            x = layer(x) if name.endswith("conv") else layer(x, emb, self._drop(name, drop), seed + n)
            skips.append(x)
        for n, (name, layer) in enumerate(self.dec.items()):
            if "block" in name:
                x = mp_cat(x, skips.pop(), CONCAT_BALANCE)
            x = layer(x, emb, self._drop(name, drop), seed + len(self.enc) + n)
        return self.out_conv(x, self.out_gain)

    def _drop(self, name: str, drop: float) -> float:
        return drop if int(name.split("x")[0]) <= self.config.dropout_max_resolution else 0.0

    def embed(self, t: Signal, labels: Tensor) -> Signal:
        """The embedding [B, E] of time and class."""
        emb = self.emb_noise(self.emb_fourier(t))
        if self.emb_label is not None:
            classes = torch.arange(self.config.num_classes, device=labels.device)
            one_hot = (labels[:, None] == classes).to(value_of(t).dtype)
            emb = mp_sum(emb, self.emb_label(one_hot * math.sqrt(self.config.num_classes)), EMBEDDING_BALANCE)
        return mp_silu(emb)
