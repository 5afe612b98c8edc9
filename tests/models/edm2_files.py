"""Snapshots with the structure of EDM2's, made without EDM2's code: modules whose pickles carry source text."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.network import FLAVOURS, NetworkConfig
from models.trigflow import TrigFlowNet

BUFFERS = ("freqs", "phases")
RUN_ME = "raise SystemExit('the source text of a module was executed')"

TINY = NetworkConfig(8, 4, 5, 8, (1, 2), 1, (4,), head_channels=8, **FLAVOURS["edm2"])


class EasyDict(dict[str, Any]):
    """Stands for dnnlib.util.EasyDict."""


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("a snapshot was unpickled")


@contextmanager
def edm2_modules() -> Iterator[None]:
    """EDM2's two modules, importable under their own names while a snapshot is written."""
    util, persistence = ModuleType("dnnlib.util"), ModuleType("torch_utils.persistence")
    for module, thing in ((util, EasyDict), (persistence, _reconstruct_persistent_obj)):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)
    made = {"dnnlib": ModuleType("dnnlib"), "torch_utils": ModuleType("torch_utils")}
    made |= {module.__name__: module for module in (util, persistence)}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class Persistent(nn.Module):
    """A module that pickles as EDM2's do: a call with its attributes and its source text."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        super().__init__()
        self._class_name = class_name
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": RUN_ME, "class_name": self._class_name}
        return _reconstruct_persistent_obj, ({**meta, "state": self.__dict__},), None


def build(state: Mapping[str, Tensor], **arguments: Any) -> Persistent:
    """The modules of a network whose tensors have these dotted names."""
    root = Persistent("Precond", _init_args=(), _init_kwargs=EasyDict(arguments), training=False)
    for name, value in state.items():
        *path, leaf = name.split(".")
        module: nn.Module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleDict() if part in ("enc", "dec") else Persistent("Block"))
            module = module._modules[part]  # type: ignore[assignment]
        if leaf in BUFFERS:
            module.register_buffer(leaf, value)
        else:
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root


def snapshot(ema: nn.Module) -> EasyDict:
    """What EDM2 pickles: encoder, data set, loss and the averaged network."""
    scale = np.array([0.5, 0.5], np.float32) / np.array([4.17, 4.62], np.float32)
    encoder = Persistent("StabilityVAEEncoder", scale=scale, _vae=None, batch_size=8)
    return EasyDict(encoder=encoder, dataset_kwargs=EasyDict(path="x.zip"), loss_fn=Persistent("EDM2Loss"), ema=ema)


def arguments_of(config: NetworkConfig) -> dict[str, Any]:
    """The arguments of EDM2's network of that shape."""
    return {
        "img_resolution": config.resolution,
        "img_channels": config.latent_channels,
        "label_dim": config.num_classes,
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "num_blocks": config.blocks_per_level,
        "attn_resolutions": list(config.attention_resolutions),
        "channels_per_head": config.head_channels,
        "dropout": 0.1,
        "use_fp16": True,
    }


def random_state(config: NetworkConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights, gains and frequencies of magnitudes about one for a network of that shape."""
    net = TrigFlowNet(config)
    generator = torch.Generator().manual_seed(seed)
    net.reset_parameters(generator)
    state = net.state_dict()
    gains = {name: torch.rand(1, generator=generator) + 0.5 for name, v in state.items() if name.endswith("gain")}
    return {**state, **gains}


def write(path: Path, content: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    """Pickle `content` with EDM2's names into a file."""
    with edm2_modules(), path.open("wb") as stream:
        pickle.dump(content, stream, protocol)
    return path


def write_network(path: Path, state: Mapping[str, Tensor], config: NetworkConfig = TINY, **changes: Any) -> Path:
    """A snapshot of a network; `changes` are to its arguments, None for one that is not said."""
    arguments = {key: value for key, value in {**arguments_of(config), **changes}.items() if value is not None}
    return write(path, snapshot(build(state, **arguments)))


def published_names(channels: int, inputs: int = 4) -> dict[str, tuple[int, ...]]:
    """The tensors of EDM2's files with their shapes, typed from the published description: 203 for every size."""
    c, e = channels, 4 * channels
    shapes: dict[str, tuple[int, ...]] = {"unet.out_gain": ()}
    shapes |= {"unet.emb_fourier.freqs": (c,), "unet.emb_fourier.phases": (c,)}
    shapes |= {"unet.emb_noise.weight": (e, c), "unet.emb_label.weight": (e, 1000)}
    shapes["unet.enc.64x64_conv.weight"] = (c, inputs + 1, 3, 3)
    for line in BLOCKS.split():
        name, i, o, attention = line.split(":")
        shapes |= _block(f"unet.{name}", int(i) * c, int(o) * c, e, attention == "*")
    shapes["unet.out_conv.weight"] = (inputs, c, 3, 3)
    shapes |= {"logvar_fourier.freqs": (128,), "logvar_fourier.phases": (128,), "logvar_linear.weight": (1, 128)}
    return shapes


BLOCKS = """
    enc.64x64_block0:1:1: enc.64x64_block1:1:1: enc.64x64_block2:1:1:
    enc.32x32_down:1:1: enc.32x32_block0:1:2: enc.32x32_block1:2:2: enc.32x32_block2:2:2:
    enc.16x16_down:2:2: enc.16x16_block0:2:3:* enc.16x16_block1:3:3:* enc.16x16_block2:3:3:*
    enc.8x8_down:3:3: enc.8x8_block0:3:4:* enc.8x8_block1:4:4:* enc.8x8_block2:4:4:*
    dec.8x8_in0:4:4:* dec.8x8_in1:4:4:
    dec.8x8_block0:8:4:* dec.8x8_block1:8:4:* dec.8x8_block2:8:4:* dec.8x8_block3:7:4:*
    dec.16x16_up:4:4: dec.16x16_block0:7:3:* dec.16x16_block1:6:3:* dec.16x16_block2:6:3:* dec.16x16_block3:5:3:*
    dec.32x32_up:3:3: dec.32x32_block0:5:2: dec.32x32_block1:4:2: dec.32x32_block2:4:2: dec.32x32_block3:3:2:
    dec.64x64_up:2:2: dec.64x64_block0:3:1: dec.64x64_block1:2:1: dec.64x64_block2:2:1: dec.64x64_block3:2:1:
"""


def _block(name: str, i: int, o: int, e: int, attention: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.emb_gain": ()}
    shapes[f"{name}.conv_res0.weight"] = (o, o if ".enc." in name else i, 3, 3)
    shapes[f"{name}.emb_linear.weight"] = (o, e)
    shapes[f"{name}.conv_res1.weight"] = (o, o, 3, 3)
    if i != o:
        shapes[f"{name}.conv_skip.weight"] = (o, i, 1, 1)
    if attention:
        shapes |= {f"{name}.attn_qkv.weight": (3 * o, o, 1, 1), f"{name}.attn_proj.weight": (o, o, 1, 1)}
    return shapes
