"""A space by its name."""

from __future__ import annotations

import torch

from scaling.config.metrics import SpaceName
from scaling.config.sections import NetworkFiles
from scaling.evaluation.spaces.resize import Mode
from scaling.evaluation.spaces.space import Space, SpaceError


def open_space(name: SpaceName, files: NetworkFiles, resize: Mode, device: torch.device | str) -> Space:
    """The space with its network on `device`. SpaceError or DataError, with the remedy, where that is not there."""
    if name == "truth":
        raise SpaceError("truth is no space of features: it judges the runs of a study with data.source mixture alone")
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
