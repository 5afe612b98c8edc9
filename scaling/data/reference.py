"""The real images that samples are judged by: their statistics, the floor, and some to look at."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.manifest import Manifest
from models.encoders import get_encoder
from scaling.config.sections import Loading
from scaling.data.opened import open_loading
from scaling.data.sources import BATCH, Prepared
from scaling.evaluation.score import REAL_GRID, Real, balanced, real_statistics
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples

log = logging.getLogger(__name__)


def read_images(shards: Path, loading: Loading, *, lenient: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 [N, H, W, C] of a folder of shards, decoded, and their labels int64 [N].

    lenient: without those that cannot be read, which else are a DataError.
    """
    reader = open_loading(shards, loading, lenient=lenient)
    encoder = get_encoder(reader.manifest.encoder)
    parts, whole = [], np.ones(len(reader), bool)
    for start in range(0, len(reader), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(reader)))
        rows = reader.rows(len(numbers))
        for row, error in reader.read_into(rows, numbers).items():
            if not lenient:
                raise error
            whole[start + row] = False
        latents = torch.from_numpy(rows.array[whole[numbers]]).float()
        parts.append(encoder.decode(latents).numpy())
    return np.concatenate(parts), reader.labels[whole]


def write_reference(prepared: Prepared, samples: int, folder: StudyFolder) -> Path:
    """Statistics of the real images, the floor at N = `samples`, and images for the report.

    Made where they are missing; a damaged file is set aside and made again.
    """
    data = prepared.data
    path = folder.path / f"reference-{data.content_sha256[:12]}-{data.held_out_sha256[:12]}-{samples}.npz"
    known = path.exists() and sound(path, lambda: Real.load(path, path.stem))
    shown = folder.real.exists() and sound(folder.real, lambda: read_samples(folder.real, REAL))
    if not known or not shown:
        held_out, labels = read_images(prepared.held_out, prepared.loading)
        if not known:
            train, _ = read_images(prepared.shards, prepared.loading, lenient=prepared.loading.on_bad_shard == "skip")
            if lost := Manifest.load(prepared.shards).samples - len(train):
                log.warning("the statistics of the real images are those of all but %d that cannot be read", lost)
                path = path.with_stem(f"{path.stem}-without-{lost}")
            write_bytes_atomic(path, real_statistics(train, held_out, labels, samples).to_bytes(path.stem))
        if not shown:
            grid = balanced(labels, REAL_GRID)
            write_bytes_atomic(folder.real, Samples(held_out[grid], labels[grid], REAL).to_npz())
    return path
