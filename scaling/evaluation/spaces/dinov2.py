"""The 1024 features of FD-DINOv2 (Stein et al. 2023): the class token of ViT-L/14 at 224 x 224, as EDM2 takes them.

Images are resized by an antialiased bicubic filter and normalised by ImageNet's mean and deviation. The network is
Hugging Face's `Dinov2Model`, read from a local folder or its cache; any DINOv2 of that class will do, and the result
names which. Its position embeddings are resampled as DINOv2's authors do it, who count a tenth of a patch more.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from data_pipeline.files import sha256_file
from scaling.evaluation.spaces.space import About, Outputs, SpaceError

HUB = "facebook/dinov2-large"
SIDE = 224
OFFSET = 0.1  # patches; with torch.hub's DINOv2, by which published FD-DINOv2 were made, but not in Hugging Face's
INSTALL = "metrics ...-dinov2 need transformers ({} is missing): pip install 'trigscale[dinov2]'"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Space:
    """DINOv2's features."""

    def __init__(self, folder: Path | None, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.network, where = _load(folder)
        self.network.to(self.device).eval().requires_grad_(False)
        config = self.network.config
        self.side = min(SIDE, config.image_size)
        _resample_positions(self.network.embeddings, self.side // config.patch_size)
        mean, deviation = torch.tensor([MEAN, DEVIATION], device=self.device).reshape(2, 1, 3, 1, 1)
        self.mean, self.deviation = mean, deviation
        name = f"DINOv2, {config.num_hidden_layers} layers of {config.hidden_size}"
        sha256 = sha256_file(where / "model.safetensors")
        self.about = About("dinov2", config.hidden_size, name, sha256, f"bicubic-224, positions +{OFFSET}")

    def require(self, shape: tuple[int, ...]) -> None:
        """Grey and RGB of any size are taken; grey stands for three equal channels."""

    @torch.inference_mode()
    def outputs(self, images: np.ndarray) -> Outputs:
        """The features of images uint8 [B, H, W, C]."""
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).expand(-1, 3, -1, -1)
        out = self.network(pixel_values=(x - self.mean) / self.deviation)
        return Outputs(out.last_hidden_state[:, 0].float().cpu().numpy())


def find_dinov2(folder: Path | None) -> Path:
    """The folder that is named, or that in Hugging Face's cache. SpaceError says what to do where there is none."""
    if folder is not None:
        return folder
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise SpaceError(INSTALL.format(error.name)) from error
    try:
        return Path(snapshot_download(HUB, local_files_only=True))
    except LocalEntryNotFoundError:
        raise SpaceError(
            "DINOv2's weights are not there: give their folder (evaluation.dinov2, --dinov2 DIR), or "
            f"`hf download {HUB}` on a machine with a network, whose cache may be copied"
        ) from None


def _resample_positions(embeddings: Any, grid: int) -> None:
    """Position embeddings for `grid` x `grid` patches in place of the network's, which it would resample by itself."""
    table = embeddings.position_embeddings.detach()
    old = math.isqrt(table.shape[1] - 1)
    if old == grid:
        return
    patches = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    made = F.interpolate(patches, scale_factor=(grid + OFFSET) / old, mode="bicubic").flatten(2).transpose(1, 2)
    embeddings.position_embeddings = torch.nn.Parameter(torch.cat([table[:, :1], made], 1))


def _load(folder: Path | None) -> tuple[Any, Path]:
    """The network, and the folder that its weights lie in."""
    try:
        from transformers import Dinov2Model
    except ImportError as error:
        raise SpaceError(INSTALL.format(error.name)) from error
    folder = find_dinov2(folder)
    try:
        network = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        what = str(error)[:120]
        raise SpaceError(f"{folder}: holds no DINOv2 of Hugging Face ({what}): `hf download {HUB}`") from error
    return network.float(), folder  # it has the precision of the file, images are float32
