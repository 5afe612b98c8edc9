from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.manifest import Manifest
from data_pipeline.writer import write_shards

COUNT, PER_SHARD, CLASSES = 23, 10, 7

Samples = list[tuple[np.ndarray, int]]


@pytest.fixture
def samples() -> Samples:
    """23 latents float16 [4, 8, 8] with labels in 0..6."""
    generator = np.random.Generator(np.random.Philox(1))
    arrays = generator.standard_normal((COUNT, 4, 8, 8)).astype(np.float16)
    return list(zip(arrays, generator.integers(CLASSES, size=COUNT).tolist(), strict=True))


@pytest.fixture
def shards(samples: Samples, tmp_path: Path) -> Path:
    """A folder of three shards of 10, 10 and 3 samples."""
    folder = tmp_path / "shards"
    pack(samples, folder)
    return folder


def pack(samples: Samples, folder: Path, per_shard: int = PER_SHARD) -> Manifest:
    """Write the samples as shards."""
    return write_shards(
        samples, folder, dataset="test", encoder="none", num_classes=CLASSES, samples_per_shard=per_shard
    )
