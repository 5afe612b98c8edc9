"""The 2048 features of FID: Inception's weights from a file, images resized in one of three ways that are named.

Pixels reach the network as (x - 128) / 128 (the TorchScript module, TensorFlow) or as x / 127.5 - 1 (pytorch-fid's
weights): which of them follows from the file, since each was published with its own.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.evaluation.spaces.inception_network import FEATURES, SIDE, InceptionV3, fused
from scaling.evaluation.spaces.resize import Mode, resize
from scaling.evaluation.spaces.space import About, Outputs, SpaceError

# What is published, and where; the second has the first digits of its SHA-256 in its name.
PUBLISHED = {
    "inception-2015-12-05.pt": "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/",
    "pt_inception-2015-12-05-6726825d.pth": "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
}
HASHED = {"pt_inception-2015-12-05-6726825d.pth": "6726825d"}
CACHE = "TRIGSCALE_CACHE"


def cache_folder() -> Path:
    """Where networks are looked for that no key and no option names: $TRIGSCALE_CACHE, else ~/.cache/trigscale."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "trigscale")


def find_inception(path: Path | None) -> Path:
    """The file that is named, or the one in the cache. SpaceError says what to do where there is none."""
    if path is not None:
        if not path.is_file():
            raise SpaceError(f"{path}: no such file: name a file of Inception's weights: {', '.join(PUBLISHED)}")
        return path
    for name in PUBLISHED:
        if (cache_folder() / name).is_file():
            return cache_folder() / name
    name, place = next(iter(PUBLISHED.items()))
    raise SpaceError(
        f"Inception's weights are not there: give their file (evaluation.inception, --inception FILE), or "
        f"`mkdir -p {cache_folder()} && curl -Lo {cache_folder() / name} {place}{name}`"
    )


class InceptionSpace:
    """Inception's features in one mode of resizing.

    bf16: whether convolutions run in bfloat16; features are float32 either way.
    """

    def __init__(self, path: Path, mode: Mode, device: torch.device | str, *, bf16: bool = False) -> None:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        _check_hash(path, digest)
        self.mode: Mode = mode
        self.device, self.bf16 = torch.device(device), bf16
        self.scripted = _scripted(path, data) if _is_scripted(data) else None
        self.network = None if self.scripted is not None else _network(path, data)
        for module in (self.scripted, self.network):
            if module is not None:
                module.to(self.device)
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.about = About("inception", FEATURES, f"InceptionV3 ({path.name})", digest, mode)

    def require(self, shape: tuple[int, ...]) -> None:
        """Grey and RGB of any size are taken; grey stands for three equal channels."""

    @torch.inference_mode()
    def outputs(self, images: np.ndarray) -> Outputs:
        """Features of images uint8 [B, H, W, C]; probabilities too, of weights that come without a program."""
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        x = resize(x, SIDE, SIDE, self.mode)
        x = (x - 128) / 128 if self.network is None else x / 127.5 - 1
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.network is None:
                assert self.scripted is not None, "one of the two is there"
                return Outputs(self.scripted.layers(x).reshape(len(x), FEATURES).float().cpu().numpy())
            features = self.network(x).float()
        return Outputs(features.cpu().numpy(), self.network.unbiased_logits(features).softmax(1).cpu().numpy())


def _check_hash(path: Path, digest: str) -> None:
    expected = HASHED.get(path.name)
    if expected is not None and not digest.startswith(expected):
        raise SpaceError(f"{path}: its SHA-256 is {digest}, not {expected}...: damaged; download it again")


def _names() -> str:
    return " or ".join(PUBLISHED)


def _is_scripted(data: bytes) -> bool:
    return data.startswith(b"PK") and b"/code/" in data


def _scripted(path: Path, data: bytes) -> Any:
    """The TorchScript module, which brings its own program, as clean-fid and EDM2 run it."""
    try:
        module: Any = torch.jit.load(io.BytesIO(data), map_location="cpu")
        module.layers  # noqa: B018 - what is asked for features
    except (RuntimeError, AttributeError) as error:
        raise SpaceError(f"{path}: is not FID's TorchScript module ({str(error)[:80]}): name {_names()}") from error
    return module.eval()


def _network(path: Path, data: bytes) -> InceptionV3:
    """The network of a file of weights, its batch normalisations folded in. Nothing but tensors is read from it."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes torch raise
        raise SpaceError(f"{path}: cannot be read as weights ({type(error).__name__}): name {_names()}") from error
    network = InceptionV3()
    try:
        network.load_state_dict({key: value for key, value in state.items() if not key.startswith("AuxLogits.")})
    except (RuntimeError, AttributeError) as error:
        first = str(error).strip().splitlines()[-1].strip()[:120]
        raise SpaceError(f"{path}: are not the weights of FID's InceptionV3 ({first}): name {_names()}") from None
    return fused(network.eval().requires_grad_(False))
