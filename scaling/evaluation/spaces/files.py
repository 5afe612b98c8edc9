"""The networks that a study names by file, as its runs know them. Without torch: a study is planned by it."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.files import sha256_file
from scaling.config.metrics import SpaceName
from scaling.config.sections import Evaluation
from scaling.evaluation.spaces.space import SpaceError

DINOV2_WEIGHTS = "model.safetensors"


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
