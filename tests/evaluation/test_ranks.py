"""Several ranks extract what one does, and one rank's failure is the failure of all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaling.evaluation import extract as module
from scaling.evaluation.extract import extract
from scaling.evaluation.frechet import Reference
from scaling.evaluation.spaces.small import fashion_space
from scaling.evaluation.spaces.space import ArrayImages
from scaling.training.sharding.world import joined
from tests.ranks import run_ranks


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(330, 16, 16, 1), dtype=np.uint8)


def extracted(fails: int | None) -> np.ndarray:
    """The features that a rank gets; rank `fails` meets an image that is none."""
    module.BATCH = 50
    with joined(torch.device("cpu")) as world:
        shown = images()[..., 0] if world.rank == fails else images()
        return extract(fashion_space("cpu"), ArrayImages(shown), world=world).features


def test_two_ranks_extract_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 50)
    alone = extract(fashion_space("cpu"), ArrayImages(images())).features
    first, second = run_ranks(2, extracted, None)
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, alone)
    reference = Reference.from_features(alone[:200])
    assert reference.distance(first) == reference.distance(alone)


def test_one_ranks_failure_fails_all() -> None:
    with pytest.raises(AssertionError, match="rank 1: "):
        run_ranks(2, extracted, 1)
