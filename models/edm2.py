"""EDM2's networks (Karras et al. 2024, arXiv 2312.02696, config G): from a snapshot to a network here, and their use.

A snapshot holds the raw F of EDM's preconditioning, D(x; sigma) = c_skip x + c_out F(c_in x, ln(sigma)/4). With
x_t = cos t x and sigma = sigma_data tan t its network sees what a TrigFlow network sees, and F_trig = -F.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.foreign import HEAD, no_pickle
from models.dual import value_of
from models.edm2_arguments import arguments_of, network_shape
from models.edm2_pickle import EDM2Error, module_state, read_pickle
from models.edm2_tensors import StoredTensor, stored_tensor
from models.network import SIGMA_DATA, NetworkConfig
from models.shape import state_shapes
from models.trigflow import TrigFlowNet, expand

OUT_GAIN = "unet.out_gain"
SHOWN = 3


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
            if kind := no_pickle(stream.read(HEAD)):
                raise EDM2Error(f"is {kind}, not a pickle of EDM2 (network-snapshot-*.pkl)")
            stream.seek(0)
            return convert(read_pickle(stream, path.stat().st_size))
    except EDM2Error as error:
        raise EDM2Error(f"{path}: {_printable(str(error))}") from None


def _printable(text: str) -> str:
    """Names in a file are the file's: what would move a terminal's cursor is written out, and it ends somewhere."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:2000])


def convert(snapshot: Any) -> EDM2Network:
    """The network in the tree of a snapshot (`models.edm2_pickle.read_pickle`); EDM2Error says what does not fit."""
    if not isinstance(snapshot, dict) or "ema" not in snapshot:
        raise EDM2Error("holds no `ema`: it is not a network snapshot of EDM2 (network-snapshot-*.pkl)")
    attributes = module_state(snapshot["ema"])
    if attributes is None:
        raise EDM2Error("its `ema` is not a network of EDM2")
    stored = dict(_walk(attributes))
    config = network_shape(arguments_of(attributes), len(stored))
    expected = state_shapes(config)
    _check_shapes(stored, expected)
    return EDM2Network(config, {name: _read(name, stored[name]) for name in expected})


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
    """EDM's denoiser D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) of a whole imported network (EDM, arXiv
    2206.00364, Eq. 7).

    x [B, C, H, W] is data plus noise of standard deviation sigma [B]; labels int64 [B], -1 for none. c_noise comes from
    sigma itself: near pi/2 the time t holds sigma to few digits in float32.
    """
    s = expand(sigma, x)
    total = s.square() + SIGMA_DATA**2
    f = value_of(net.unet.at_noise(x / total.sqrt(), edm_noise(sigma), labels))
    return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * f


def edm_logvar(net: TrigFlowNet, sigma: Tensor) -> Tensor:
    """u(sigma) [B], the log-variance by which EDM2's training loss divides (EDM2, Eq. 21)."""
    return net.weighting(edm_noise(sigma))


def edm_noise(sigma: Tensor) -> Tensor:
    """c_noise = ln(sigma) / 4, [B]."""
    return sigma.log() / 4


def as_trigflow_teacher(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state whose network gives TrigFlow's F instead of EDM's: exactly F_trig = -F, by a negated output gain."""
    return {**state, OUT_GAIN: -state[OUT_GAIN]}
