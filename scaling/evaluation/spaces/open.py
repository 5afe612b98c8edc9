"""A space by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from data_pipeline.files import sha256_file
from scaling.config.metrics import SpaceName
from scaling.config.sections import Evaluation, NetworkFiles
from scaling.evaluation.spaces.resize import Mode
from scaling.evaluation.spaces.space import Space, SpaceError

DINOV2_WEIGHTS = "model.safetensors"


def open_space(name: SpaceName, files: NetworkFiles, resize: Mode, device: torch.device | str) -> Space:
    """The space with its network on `device`. SpaceError or DataError, with the remedy, where that is not there."""
    if name == "fashion":
        from scaling.evaluation.spaces.small import fashion_space

        return fashion_space(device)
    if name == "own":
        from scaling.evaluation.spaces.small import own_space

        if files.ruler is None:
            raise SpaceError("the features `own` need their network: --ruler FILE, made by `trigscale ruler train`")
        return own_space(files.ruler, device)
    if name == "inception":
        from scaling.evaluation.spaces.inception import InceptionSpace, find_inception

        return InceptionSpace(find_inception(files.inception), resize, device)
    from scaling.evaluation.spaces.dinov2 import Dinov2Space

    return Dinov2Space(files.dinov2, device)


def network_hashes(evaluation: Evaluation) -> dict[SpaceName, str]:
    """SHA-256 of the networks that a study names by file, for what its runs are known by. SpaceError names the key."""
    found: dict[SpaceName, str] = {}
    named: dict[SpaceName, Path | None] = {"own": evaluation.ruler, "inception": evaluation.inception}
    named["dinov2"] = evaluation.dinov2 and evaluation.dinov2 / DINOV2_WEIGHTS
    for space, path in named.items():
        if space in evaluation.spaces and path is not None:
            if not path.is_file():
                raise SpaceError(f"evaluation.{'ruler' if space == 'own' else space}: {path}: no such file")
            found[space] = sha256_file(path)
    return found
