"""EDM2's networks (Karras et al. 2024, arXiv 2312.02696, config G): from a snapshot to a network here, and their use.

A snapshot holds the raw F of EDM's preconditioning, D(x; sigma) = c_skip x + c_out F(c_in x, ln(sigma)/4). With
x_t = cos t x and sigma = sigma_data tan t its network sees what a TrigFlow network sees, and F_trig = -F.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.edm2_pickle import EDM2Error, module_state, read_pickle
from models.edm2_tensors import StoredTensor, stored_tensor
from models.network import FLAVOURS, SIGMA_DATA, NetworkConfig
from models.trigflow import WEIGHT_CHANNELS, TrigFlowNet, expand, time_from_sigma
from models.unet import ACTIVATION_BOUND, ATTENTION_BALANCE, CONCAT_BALANCE, EMBEDDING_BALANCE, RESIDUAL_BALANCE

POSITIONAL = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
DEFAULTS: dict[str, Any] = {
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "channels_per_head": 64,
}
REQUIRED = ("img_resolution", "img_channels", "label_dim", "model_channels")
# What a snapshot may say only as it is here.
FIXED: dict[str, Any] = {
    "sigma_data": SIGMA_DATA,
    "logvar_channels": WEIGHT_CHANNELS,
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "label_balance": EMBEDDING_BALANCE,
    "concat_balance": CONCAT_BALANCE,
    "res_balance": RESIDUAL_BALANCE,
    "attn_balance": ATTENTION_BALANCE,
    "clip_act": ACTIVATION_BOUND,
    "resample_filter": [1, 1],
}
WITHOUT_EFFECT = ("use_fp16", "dropout")  # how the network was run and trained, not what it computes
ALREADY_STATISTICS = 8
LARGEST = 2**20
WIDEST = 2**16  # channels; EDM2's widest level has 1792
OUT_GAIN = "unet.out_gain"
SHOWN = 3

OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (an .npz, a data set or a PyTorch file)",
    b"\x93NUMP": "a NumPy array",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"<": "a web page: the download failed",
}


@dataclass(frozen=True)
class EDM2Network:
    """A network as EDM2 stored it: its shape, and its state by the names of TrigFlowNet, in float32."""

    config: NetworkConfig
    state: dict[str, Tensor]


def read_edm2(path: Path) -> EDM2Network:
    """Read the network (`ema`) of an EDM2 snapshot, network-snapshot-*.pkl, without running anything in it.

    Half-precision weights become float32; the random frequencies are those of the file. Raises EDM2Error naming the
    file, and OSError where it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            _check_kind(stream.read(16))
            stream.seek(0)
            return convert(read_pickle(stream, path.stat().st_size))
    except EDM2Error as error:
        raise EDM2Error(f"{path}: {_printable(str(error))}") from None


def _printable(text: str) -> str:
    """Names in a file are the file's: what would move a terminal's cursor is written out, and it ends somewhere."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:2000])


def _check_kind(head: bytes) -> None:
    if not head:
        raise EDM2Error("is empty: download it again")
    if head[8:9] == b"{":
        raise EDM2Error("is a safetensors file, not a pickle of EDM2 (network-snapshot-*.pkl)")
    for magic, name in OTHER_FILES.items():
        if head.startswith(magic):
            raise EDM2Error(f"is {name}, not a pickle of EDM2 (network-snapshot-*.pkl)")


def convert(snapshot: Any) -> EDM2Network:
    """The network in the tree of a snapshot (`models.edm2_pickle.read_pickle`); EDM2Error says what does not fit."""
    if not isinstance(snapshot, dict) or "ema" not in snapshot:
        raise EDM2Error("holds no `ema`: it is not a network snapshot of EDM2 (network-snapshot-*.pkl)")
    attributes = module_state(snapshot["ema"])
    if attributes is None:
        raise EDM2Error("its `ema` is not a network of EDM2")
    stored = dict(_walk(attributes))
    config = _config(_arguments(attributes), len(stored))
    expected = _expected(config)
    _check_shapes(stored, expected)
    return EDM2Network(config, {name: _read(name, stored[name]) for name in expected})


def _arguments(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What the network was made with: the recorded arguments of its class, by name."""
    args, kwargs = attributes.get("_init_args"), attributes.get("_init_kwargs")
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        raise EDM2Error("its network does not record the arguments that it was made with (_init_args, _init_kwargs)")
    if len(args) > len(POSITIONAL):
        raise EDM2Error(f"its network has {len(args)} arguments without a name, EDM2's has at most {len(POSITIONAL)}")
    return {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}


def _config(arguments: Mapping[str, Any], tensors: int) -> NetworkConfig:
    """The shape of a network that was made with these arguments and holds that many tensors."""
    for key, value in arguments.items():
        if key in FIXED and not _equal(value, FIXED[key]):
            raise EDM2Error(f"its network has {key} {_shown(value)}; only {FIXED[key]!r} can be represented")
        if key not in FIXED and key not in REQUIRED and key not in DEFAULTS and key not in WITHOUT_EFFECT:
            raise EDM2Error(f"its network has an unknown argument {_shown(key)} = {_shown(value)}")
    if missing := [key for key in REQUIRED if key not in arguments]:
        raise EDM2Error(f"its network does not say its {missing[0]}")
    values = {**DEFAULTS, **{key: value for key, value in arguments.items() if key not in FIXED}}
    if values["img_channels"] == ALREADY_STATISTICS:
        raise EDM2Error(
            f"its network takes {ALREADY_STATISTICS} channels: it was trained on mean and standard deviation of "
            "latents as if they were latents. EDM2's latents have 4 channels, drawn as mean + std * noise"
        )
    mult = tuple(_whole("channel_mult", value) for value in _list(values, "channel_mult"))
    blocks, resolution = _whole("num_blocks", values["num_blocks"]), _whole("img_resolution", values["img_resolution"])
    if blocks * len(mult) > tensors:
        raise EDM2Error(f"its network has {tensors} tensors, too few for {len(mult)} levels of {blocks} blocks")
    if max(mult) * _whole("model_channels", values["model_channels"]) > WIDEST:
        raise EDM2Error(f"its network is wider than {WIDEST} channels")
    levels = [resolution >> level for level in range(len(mult))]
    attention = [_whole("attn_resolutions", value) for value in _list(values, "attn_resolutions")]
    try:
        return NetworkConfig(
            resolution=resolution,
            latent_channels=_whole("img_channels", values["img_channels"]),
            num_classes=_whole("label_dim", values["label_dim"], least=0),
            model_channels=_whole("model_channels", values["model_channels"]),
            channel_mult=mult,
            blocks_per_level=blocks,
            attention_resolutions=tuple(value for value in attention if value in levels),
            head_channels=_whole("channels_per_head", values["channels_per_head"]),
            **FLAVOURS["edm2"],
        )
    except ValueError as error:
        raise EDM2Error(f"its network cannot be represented: {error}") from error


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return isinstance(value, list | tuple) and len(value) == len(expected) and all(map(_equal, value, expected))
    return isinstance(value, int | float | None) and value == expected


def _shown(value: Any) -> str:
    """A value of the file for a message: nothing that is long, costly to print, or not plain text."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18):
        return repr(value)
    if isinstance(value, list | tuple) and len(value) <= 8 and all(type(n) is int and abs(n) < 10**18 for n in value):
        return repr(list(value))
    return f"a {type(value).__name__}"


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values[key]
    if not isinstance(value, list | tuple) or not value:
        raise EDM2Error(f"its network has {key} {_shown(value)}: a list of whole numbers belongs there")
    return list(value)


def _whole(key: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= LARGEST:
        raise EDM2Error(f"its network has {key} {_shown(value)}: a whole number from {least} belongs there")
    return value


def _walk(attributes: Mapping[str, Any]) -> Iterator[tuple[str, StoredTensor]]:
    """Every parameter and buffer below a module by its dotted name."""
    pending: list[tuple[str, Mapping[str, Any]]] = [("", attributes)]
    seen: set[int] = set()
    while pending:
        prefix, module = pending.pop()
        if id(module) in seen:
            raise EDM2Error(f"module {prefix.rstrip('.')} stands in two places: EDM2 shares none")
        seen.add(id(module))
        for kind in ("_parameters", "_buffers"):
            for name, value in _part(module, kind, prefix):
                try:
                    yield prefix + name, stored_tensor(value)
                except EDM2Error as error:
                    raise EDM2Error(f"{prefix}{name} {error}") from None
        for name, value in _part(module, "_modules", prefix):
            inner = module_state(value)
            if inner is None:
                raise EDM2Error(f"{prefix}{name} is no module of EDM2")
            pending.append((f"{prefix}{name}.", inner))


def _part(module: Mapping[str, Any], kind: str, prefix: str) -> list[tuple[str, Any]]:
    """The entries of `_parameters`, `_buffers` or `_modules` that are not None."""
    content = module.get(kind)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise EDM2Error(f"module {prefix.rstrip('.') or 'ema'} has no {kind}")
    return [(name, value) for name, value in content.items() if value is not None]


def _expected(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in TrigFlowNet(config).state_dict().items()}


def _check_shapes(stored: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """EDM2Error unless the tensors are those of the network; a gain, [1] here, may be []."""
    misfits = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in stored]
    misfits += [f"surplus {name} {list(value.shape)}" for name, value in stored.items() if name not in expected]
    misfits += [
        f"{name} is {list(value.shape)} where {list(expected[name])} belongs"
        for name, value in stored.items()
        if name in expected and value.shape != expected[name] and (value.shape, expected[name]) != ((), (1,))
    ]
    if misfits:
        more = f"; and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
        raise EDM2Error(f"its tensors are not those of the network it describes: {'; '.join(misfits[:SHOWN])}{more}")


def _read(name: str, stored: StoredTensor) -> Tensor:
    try:
        value = stored.read()
    except EDM2Error as error:
        raise EDM2Error(f"{name}: {error}") from None
    if not value.isfinite().all():
        raise EDM2Error(f"{name}: holds NaN or infinity: the file is damaged; download it again")
    return value.reshape(1) if value.ndim == 0 else value


def edm_denoise(net: TrigFlowNet, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """EDM's denoiser D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) of an imported network (EDM, arXiv
    2206.00364, Eq. 7).

    x [B, C, H, W] is data plus noise of standard deviation sigma [B]; labels int64 [B], -1 for none.
    """
    s = expand(sigma, x)
    total = s.square() + SIGMA_DATA**2
    f = net(x / total.sqrt(), time_from_sigma(sigma), labels)
    return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * f


def as_trigflow_teacher(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state whose network gives TrigFlow's F instead of EDM's: exactly F_trig = -F, by a negated output gain."""
    return {**state, OUT_GAIN: -state[OUT_GAIN]}
