"""The shape of an EDM2 network from the arguments that its snapshot records (EDM2, arXiv 2312.02696, config G)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.edm2_pickle import EDM2Error
from models.network import FLAVOURS, SIGMA_DATA, WEIGHT_CHANNELS, NetworkConfig
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
    "label_balance": EMBEDDING_BALANCE,
    "concat_balance": CONCAT_BALANCE,
    "res_balance": RESIDUAL_BALANCE,
    "attn_balance": ATTENTION_BALANCE,
    "clip_act": ACTIVATION_BOUND,
    "resample_filter": [1, 1],
}
EMBEDDING_WIDTHS = ("channel_mult_noise", "channel_mult_emb")  # None: those of the first and of the widest level
WITHOUT_EFFECT = ("use_fp16", "dropout")  # how the network was run and trained, not what it computes
ALREADY_STATISTICS = 8
LARGEST = 2**20
WIDEST = 2**16  # channels; EDM2's widest level has 1792


def arguments_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What the network with these attributes was made with: the recorded arguments of its class, by name."""
    args, kwargs = attributes.get("_init_args"), attributes.get("_init_kwargs")
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        raise EDM2Error("its network does not record the arguments that it was made with (_init_args, _init_kwargs)")
    if len(args) > len(POSITIONAL):
        raise EDM2Error(f"its network has {len(args)} arguments without a name, EDM2's has at most {len(POSITIONAL)}")
    return {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}


def network_shape(arguments: Mapping[str, Any], tensors: int) -> NetworkConfig:
    """The shape of a network that was made with these arguments and holds that many tensors.

    EDM2Error (without the file's name) names the argument that is unknown, missing or cannot be represented.
    """
    _check_names(arguments)
    values = {**DEFAULTS, **{key: value for key, value in arguments.items() if key not in FIXED}}
    if values["img_channels"] == ALREADY_STATISTICS:
        raise EDM2Error(
            f"its network takes {ALREADY_STATISTICS} channels: it was trained on mean and standard deviation of "
            "latents as if they were latents. EDM2's latents have 4 channels, drawn as mean + std * noise"
        )
    mult = tuple(_whole("channel_mult", value) for value in _list(values, "channel_mult", least=1))
    _check_embedding(values, mult)
    resolution, channels = (_whole(key, values[key]) for key in ("img_resolution", "model_channels"))
    blocks, head = (_whole(key, values[key]) for key in ("num_blocks", "channels_per_head"))
    if blocks * len(mult) > tensors:
        raise EDM2Error(f"its network has {tensors} tensors, too few for {len(mult)} levels of {blocks} blocks")
    if max(mult) * channels > WIDEST:
        raise EDM2Error(f"its network is wider than {WIDEST} channels")
    # EDM2's blocks that are narrower than one head have no attention, whatever attn_resolutions say; in0 asks for it
    # in any case.
    levels = [resolution >> level for level in range(len(mult))]
    roomy = [level for level, factor in zip(levels, mult, strict=True) if factor * channels >= head]
    said = [_whole("attn_resolutions", value) for value in _list(values, "attn_resolutions")]
    attention = tuple(value for value in dict.fromkeys(said) if value in roomy)
    try:
        return NetworkConfig(
            resolution=resolution,
            latent_channels=_whole("img_channels", values["img_channels"]),
            num_classes=_whole("label_dim", values["label_dim"], least=0),
            model_channels=channels,
            channel_mult=mult,
            blocks_per_level=blocks,
            attention_resolutions=attention,
            head_channels=head,
            attention_in0=levels[-1] in roomy and levels[-1] not in attention,
            **FLAVOURS["edm2"],
        )
    except ValueError as error:
        raise EDM2Error(f"its network cannot be represented: {error}") from error


def _check_names(arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        if key in FIXED and not _equal(value, FIXED[key]):
            raise EDM2Error(f"its network has {key} {_shown(value)}; only {FIXED[key]!r} can be represented")
        if key not in (*FIXED, *REQUIRED, *DEFAULTS, *EMBEDDING_WIDTHS, *WITHOUT_EFFECT):
            raise EDM2Error(f"its network has an unknown argument {_shown(key)} = {_shown(value)}")
    if missing := [key for key in REQUIRED if key not in arguments]:
        raise EDM2Error(f"its network does not say its {missing[0]}")


def _check_embedding(values: Mapping[str, Any], mult: tuple[int, ...]) -> None:
    """EDM2Error unless the embeddings are as wide as they are where nothing is said of them."""
    for key, factor in zip(EMBEDDING_WIDTHS, (mult[0], max(mult)), strict=True):
        if (value := values.get(key)) is not None and not _equal(value, factor):
            raise EDM2Error(f"its network has {key} {_shown(value)}; only {factor} or None can be represented")


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return isinstance(value, list | tuple) and len(value) == len(expected) and all(map(_equal, value, expected))
    return isinstance(value, int | float) and value == expected


def _shown(value: Any) -> str:
    """A value of the file for a message: nothing that is long, costly to print, or not plain text."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18):
        return repr(value)
    if isinstance(value, list | tuple) and len(value) <= 8 and all(type(n) is int and abs(n) < 10**18 for n in value):
        return repr(list(value))
    return f"a {type(value).__name__}"


def _list(values: Mapping[str, Any], key: str, least: int = 0) -> list[Any]:
    value = values[key]
    if not isinstance(value, list | tuple) or len(value) < least:
        raise EDM2Error(f"its network has {key} {_shown(value)}: a list of whole numbers belongs there")
    return list(value)


def _whole(key: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= LARGEST:
        raise EDM2Error(f"its network has {key} {_shown(value)}: a whole number from {least} belongs there")
    return value
