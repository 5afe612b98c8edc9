from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.manifest import Manifest
from data_pipeline.writer import write_shards

Samples = list[tuple[np.ndarray, int]]


@pytest.fixture
def samples() -> Samples:
    """23 latents float16 [4, 8, 8] with labels in 0..6."""
    generator = np.random.Generator(np.random.Philox(1))
    arrays = generator.standard_normal((23, 4, 8, 8)).astype(np.float16)
    return list(zip(arrays, generator.integers(7, size=23).tolist(), strict=True))


@pytest.fixture
def pack() -> Callable[..., Manifest]:
    """Write samples of 7 classes into a folder, 10 to a shard unless said."""

    def packing(samples: Samples, folder: Path, per_shard: int = 10) -> Manifest:
        return write_shards(samples, folder, dataset="test", encoder="none", num_classes=7, samples_per_shard=per_shard)

    return packing


@pytest.fixture
def shards(samples: Samples, pack: Callable[..., Manifest], tmp_path: Path) -> Path:
    """A folder of three shards of 10, 10 and 3 samples."""
    folder = tmp_path / "shards"
    pack(samples, folder)
    return folder
