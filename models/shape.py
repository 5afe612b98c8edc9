"""What a network is made of, from its description alone: blocks, tensors, parameters, multiply-adds. Without torch.

`models.unet` builds the blocks that are listed here; the rest repeats its layers in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from models.network import WEIGHT_CHANNELS, NetworkConfig

Resampling = Literal["keep", "down", "up"]
Tensors = Iterator[tuple[str, tuple[int, ...]]]

BUFFERS = ("freqs", "phases")  # of an embedding: saved with the weights, never trained
CONV = (3, 3)
POINTWISE = (1, 1)


@dataclass(frozen=True)
class BlockShape:
    """One residual block: [B, i, H, W] -> [B, o, H', W'], where H' = W' = resolution; heads of its attention, 0: none.

    i counts the features of the skip connection that the block takes in.
    """

    name: str
    resolution: int
    i: int
    o: int
    decoder: bool
    resampling: Resampling = "keep"
    heads: int = 0

    def tensors(self, embedding: int) -> Tensors:
        """Names and shapes of its parameters, in order."""
        i, o = self.i, self.o
        yield "emb_gain", (1,)
        yield "conv_res0.weight", (o, i if self.decoder else o, *CONV)
        yield "emb_linear.weight", (o, embedding)
        yield "conv_res1.weight", (o, o, *CONV)
        if i != o:
            yield "conv_skip.weight", (o, i, *POINTWISE)
        if self.heads:
            yield "attn_qkv.weight", (3 * o, o, *POINTWISE)
            yield "attn_proj.weight", (o, o, *POINTWISE)

    def macs(self, embedding: int) -> int:
        """Multiply-adds for one sample: convolutions once a pixel, attention twice a pair of pixels."""
        pixels = self.resolution**2
        weights = sum(math.prod(shape) for _, shape in self.tensors(embedding) if len(shape) == 4)
        pairs = 2 * pixels**2 * self.o if self.heads else 0
        return weights * pixels + self.o * embedding + pairs


def encoder_blocks(config: NetworkConfig) -> tuple[BlockShape, ...]:
    """The blocks of the encoder in order; before them stands the convolution that reads the input."""
    blocks: list[BlockShape] = []
    at = config.widths[0]
    for level, width in enumerate(config.widths):
        res = config.resolution >> level
        if level:
            blocks.append(BlockShape(f"{res}x{res}_down", res, at, at, decoder=False, resampling="down"))
        for n in range(config.blocks_per_level):
            heads = _heads(config, width, res)
            blocks.append(BlockShape(f"{res}x{res}_block{n}", res, at, width, decoder=False, heads=heads))
            at = width
    return tuple(blocks)


def decoder_blocks(config: NetworkConfig) -> tuple[BlockShape, ...]:
    """The blocks of the decoder in order. Those named block take in the encoder's features, the last of them first."""
    skips = [config.widths[0], *(block.o for block in encoder_blocks(config))]
    blocks: list[BlockShape] = []
    at = config.widths[-1]
    for level, width in reversed([*enumerate(config.widths)]):
        res = config.resolution >> level
        heads = _heads(config, width, res)
        if res == config.coarsest:
            first = config.heads(at) if config.attention_in0 else heads
            blocks.append(BlockShape(f"{res}x{res}_in0", res, at, at, decoder=True, heads=first))
            blocks.append(BlockShape(f"{res}x{res}_in1", res, at, at, decoder=True))
        else:
            blocks.append(BlockShape(f"{res}x{res}_up", res, at, at, decoder=True, resampling="up"))
        for n in range(config.blocks_per_level + 1):
            i = at + skips.pop()
            blocks.append(BlockShape(f"{res}x{res}_block{n}", res, i, width, decoder=True, heads=heads))
            at = width
    return tuple(blocks)


def _heads(config: NetworkConfig, width: int, resolution: int) -> int:
    return config.heads(width) if resolution in config.attention_resolutions else 0


def state_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """The state dict of `models.trigflow.TrigFlowNet`: every parameter and buffer by name, in its order."""
    first, embedding = config.widths[0], max(config.widths)
    shapes: dict[str, tuple[int, ...]] = {"unet.out_gain": (1,)}
    if config.guidance:
        shapes["unet.emb_guidance_gain"] = (1,)
    if config.second_time:
        shapes["unet.emb_to_gain"] = (1,)
    shapes |= _embedding("unet.emb_fourier", first)
    shapes["unet.emb_noise.weight"] = (embedding, first)
    if config.guidance:
        shapes |= _embedding("unet.emb_guidance_fourier", first)
        shapes["unet.emb_guidance.weight"] = (embedding, first)
    if config.second_time:
        shapes |= _embedding("unet.emb_to_fourier", first)
        shapes["unet.emb_to.weight"] = (embedding, first)
    if config.num_classes:
        shapes["unet.emb_label.weight"] = (embedding, config.num_classes)
    shapes[f"unet.enc.{input_name(config)}.weight"] = (first, config.latent_channels + 1, *CONV)
    for part, blocks in (("enc", encoder_blocks(config)), ("dec", decoder_blocks(config))):
        for block in blocks:
            shapes |= {f"unet.{part}.{block.name}.{name}": shape for name, shape in block.tensors(embedding)}
    shapes["unet.out_conv.weight"] = (config.latent_channels, first, *CONV)
    shapes |= _embedding("logvar_fourier", WEIGHT_CHANNELS)
    shapes["logvar_linear.weight"] = (1, WEIGHT_CHANNELS)
    return shapes


def _embedding(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{buffer}": (channels,) for buffer in BUFFERS}


def input_name(config: NetworkConfig) -> str:
    """The name of the convolution that reads the input, the encoder's first layer."""
    return f"{config.resolution}x{config.resolution}_conv"


@dataclass(frozen=True)
class Shapes:
    """The parameters of a network, the weighting head's included, and its buffers.

    tensors: the shape of each parameter, in the network's order. elements: numbers in the root alone, then in each
    block in order. buffers: numbers in them.
    """

    tensors: tuple[tuple[int, ...], ...]
    elements: tuple[int, ...]
    buffers: int


@lru_cache
def network_shapes(config: NetworkConfig) -> Shapes:
    """What one network is made of, in numbers."""
    state = state_shapes(config)
    buffers = sum(math.prod(shape) for name, shape in state.items() if name.endswith(BUFFERS))
    tensors = tuple(shape for name, shape in state.items() if not name.endswith(BUFFERS))
    blocks = [
        sum(math.prod(shape) for _, shape in block.tensors(max(config.widths)))
        for block in (*encoder_blocks(config), *decoder_blocks(config))
    ]
    root = sum(map(math.prod, tensors)) - sum(blocks)
    return Shapes(tensors, (root, *blocks), buffers)


def count_parameters(config: NetworkConfig) -> int:
    """Trainable parameters, the weighting head's included."""
    return sum(network_shapes(config).elements)


def count_macs(config: NetworkConfig) -> int:
    """Multiply-adds of one forward pass of one sample: convolutions, linear layers and attention, each counted once."""
    first, embedding = config.widths[0], max(config.widths)
    ends = 9 * first * (2 * config.latent_channels + 1) * config.resolution**2
    embeddings = embedding * (first * (1 + config.guidance + config.second_time) + config.num_classes)
    blocks = (*encoder_blocks(config), *decoder_blocks(config))
    return ends + embeddings + sum(block.macs(embedding) for block in blocks)
