"""The U-Net of EDM2 config G (arXiv 2312.02696, Fig. 22), as it is and in its TrigFlow flavour (sCM, section 4).

What the TrigFlow flavour changes (`models.network.FLAVOURS`): the network sees the time t itself (c_noise = t), through
a positional embedding; the factor that the embedding gives is RMS-normalised over channels before it multiplies the
features (the double normalisation of sCM, section 4.1, for a network that has no shift: it adds no parameters and is
the identity at initialisation). Either may take a guidance strength. Written in the operations of `models.dual`: on
`Dual` inputs it gives F and its stop-gradient tangent. Names of parameters are those of EDM2's files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kernels.attention import attention, attention_jvp
from models.dropout import Dropout, dropout
from models.dual import Dual, Signal, combine, linear, nonlinear, product, recomputed, value_of
from models.embedding import CosineEmbedding, noise_condition
from models.network import FLAVOURS, ModulationNorm, NetworkConfig
from models.primitives import MPLinear, clip, mp_cat, mp_silu, mp_sum, pixel_norm, resample
from models.shape import BlockShape, decoder_blocks, encoder_blocks, input_name

__all__ = ["FLAVOURS", "Block", "Dropout", "NetworkConfig", "UNet"]

RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
EMBEDDING_BALANCE = 0.5
CONCAT_BALANCE = 0.5
ACTIVATION_BOUND = 256.0


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


def _signal(value: Tensor, tangent: Tensor | None) -> Signal:
    return value if tangent is None else Dual(value, tangent)


def _tensors(a: Signal, b: Signal) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Values and tangents of two signals."""
    (va, ta), (vb, tb) = ((x.value, x.tangent) if isinstance(x, Dual) else (x, None) for x in (a, b))
    return va, vb, ta, tb


class Block(nn.Module):
    """One residual block: [B, i, H, W] and an embedding [B, E] -> [B, o, H', W']."""

    def __init__(
        self,
        i: int,
        o: int,
        embedding: int,
        *,
        decoder: bool,
        norm: ModulationNorm,
        resampling: str = "keep",
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.decoder, self.norm, self.resampling, self.heads = decoder, norm, resampling, heads
        self.emb_gain = nn.Parameter(torch.zeros(1))
        self.conv_res0 = MPLinear(i if decoder else o, o, (3, 3))
        self.emb_linear = MPLinear(embedding, o)
        self.conv_res1 = MPLinear(o, o, (3, 3))
        self.conv_skip = MPLinear(i, o, (1, 1)) if i != o else None
        if heads:
            self.attn_qkv = MPLinear(o, 3 * o, (1, 1))
            self.attn_proj = MPLinear(o, o, (1, 1))

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        dx: Tensor | None = None,
        demb: Tensor | None = None,
        drop: Dropout | None = None,
        recompute: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The value; with the tangents dx, demb of both inputs, the value and its tangent.

        Plain tensors, because the hooks by which ZeRO-3 reduces gradients see no others. `recompute`: keep the inputs
        alone for the backward pass (activation checkpointing).
        """
        a, b = _signal(x, dx), _signal(emb, demb)
        if recompute and torch.is_grad_enabled():
            out = recomputed(lambda a, b: self._forward(a, b, drop), a, b)
        else:
            out = self._forward(a, b, drop)
        return (out.value, out.tangent) if isinstance(out, Dual) else out

    def _forward(self, x: Signal, emb: Signal, drop: Dropout | None) -> Signal:
        x = resample(x, self.resampling)
        if not self.decoder:
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = pixel_norm(x)
        y = mp_silu(product(self.conv_res0(mp_silu(x)), self.modulation(emb)))
        if drop is not None:
            y = dropout(y, drop)
        y = self.conv_res1(y)
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, RESIDUAL_BALANCE)
        if self.heads:
            x = mp_sum(x, self.attn_proj(self_attention(self.attn_qkv(x), self.heads)), ATTENTION_BALANCE)
        return clip(x, ACTIVATION_BOUND)

    def modulation(self, emb: Signal) -> Signal:
        """The factor of the features [B, o, 1, 1]: 1 + gain * linear(emb), or its pixel norm; one at initialisation."""
        factor = nonlinear(lambda y: y + 1, lambda _, tangent, __: tangent, self.emb_linear(emb, self.emb_gain))
        if self.norm == "double":
            factor = pixel_norm(factor)
        return linear(lambda y: y[:, :, None, None], factor)


class UNet(nn.Module):
    """F(x, t, label): the network of TrigFlow and of consistency models (EDM2 config G without preconditioning).

    `activation_checkpointing`: every block keeps its inputs alone and is computed again in the backward pass.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        first, embedding = config.widths[0], max(config.widths)
        self.out_gain = nn.Parameter(torch.zeros(1))
        self.emb_fourier = CosineEmbedding(first, config.time_embedding, config.fourier_scale)
        self.emb_noise = MPLinear(first, embedding)
        if config.guidance:
            self.emb_guidance_fourier = CosineEmbedding(first, "positional")
            self.emb_guidance = MPLinear(first, embedding)
            self.emb_guidance_gain = nn.Parameter(torch.zeros(1))
        if config.second_time:
            self.emb_to_fourier = CosineEmbedding(first, "positional")
            self.emb_to = MPLinear(first, embedding)
            self.emb_to_gain = nn.Parameter(torch.zeros(1))
        self.emb_label = MPLinear(config.num_classes, embedding) if config.num_classes else None
        # One more channel of the input holds the constant 1 that replaces biases.
        first_layer = {input_name(config): MPLinear(config.latent_channels + 1, first, (3, 3))}
        self.enc = nn.ModuleDict(first_layer | self._blocks(encoder_blocks(config), embedding))
        self.dec = nn.ModuleDict(self._blocks(decoder_blocks(config), embedding))
        self.out_conv = MPLinear(first, config.latent_channels, (3, 3))

    def _blocks(self, shapes: Iterable[BlockShape], embedding: int) -> dict[str, nn.Module]:
        norm = self.config.modulation_norm
        return {
            at.name: Block(
                at.i, at.o, embedding, norm=norm, decoder=at.decoder, resampling=at.resampling, heads=at.heads
            )
            for at in shapes
        }

    def forward(
        self,
        x: Signal,
        t: Signal,
        labels: Tensor,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
    ) -> Signal:
        """F at x [B, C, H, W] (already divided by sigma_data), t [B], labels int64 [B] (-1: no label), guidance [B].

        to [B]: the time that a flow map leads to, along which there is no derivative.

        On `Dual` x and t the result is a `Dual`. `drop` is None outside training. Raises ValueError if guidance or `to`
        is given to a network without that input, or missing for one with it.
        """
        return self.at_noise(x, noise_condition(t, self.config.time_input), labels, guidance, drop, to)

    def at_noise(
        self,
        x: Signal,
        c_noise: Signal,
        labels: Tensor,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
    ) -> Signal:
        """`forward` by c_noise [B], what the embedding sees, for callers that know it better than by a time."""
        emb = self.embed(c_noise, labels, guidance, to)
        x = combine(lambda a, b: torch.cat([a, b], 1), x, torch.ones_like(value_of(x)[:, :1]))
        skips: list[Signal] = []
        for n, (name, layer) in enumerate(self.enc.items()):
            x = layer(x) if name.endswith("conv") else self._block(layer, name, n, x, emb, drop)
            skips.append(x)
        for n, (name, layer) in enumerate(self.dec.items(), len(self.enc)):
            if "block" in name:
                x = mp_cat(x, skips.pop(), CONCAT_BALANCE)
            x = self._block(layer, name, n, x, emb, drop)
        return self.out_conv(x, self.out_gain)

    def _block(self, block: nn.Module, name: str, n: int, x: Signal, emb: Signal, drop: Dropout | None) -> Signal:
        here = drop.at(int(name.split("x")[0]), n) if drop is not None else None
        out = block(*_tensors(x, emb), here, self.activation_checkpointing)
        return Dual(*out) if isinstance(out, tuple) else out

    def embed(
        self, c_noise: Signal, labels: Tensor, guidance: Tensor | None = None, to: Tensor | None = None
    ) -> Signal:
        """The embedding [B, E] of c_noise, guidance, the time to lead to and class."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.config.guidance != (guidance is not None):
            given, takes = ("given to", "no") if guidance is not None else ("missing for", "a")
            raise ValueError(f"guidance: {given} a network that takes {takes} guidance input")
        if self.config.second_time != (to is not None):
            given, takes = ("given to", "no") if to is not None else ("missing for", "a")
            raise ValueError(f"to: {given} a network that takes {takes} time to lead to")
        if guidance is not None:
            strength = self.emb_guidance(self.emb_guidance_fourier(guidance), self.emb_guidance_gain)
            emb = combine(torch.add, emb, strength)
        if to is not None:
            emb = combine(torch.add, emb, self.emb_to(self.emb_to_fourier(to), self.emb_to_gain))
        if self.emb_label is not None:
            classes = torch.arange(self.config.num_classes, device=labels.device)
            one_hot = (labels[:, None] == classes).to(value_of(c_noise).dtype)
            emb = mp_sum(emb, self.emb_label(one_hot * math.sqrt(self.config.num_classes)), EMBEDDING_BALANCE)
        return mp_silu(emb)
