"""The real images that samples are judged by: their statistics, the floor, and some to look at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from scaling.data.sources import BATCH, Prepared
from scaling.evaluation.score import REAL_GRID, balanced, real_statistics


def read_images(shards: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 [N, H, W, C] of a folder of shards, decoded, and their labels int64 [N]."""
    reader = LatentReader(shards)
    encoder = get_encoder(reader.manifest.encoder)
    parts = []
    for start in range(0, len(reader), BATCH):
        latents, _ = reader.read(np.arange(start, min(start + BATCH, len(reader))))
        parts.append(encoder.decode(torch.from_numpy(latents).float()).numpy())
    return np.concatenate(parts), reader.labels


def write_reference(prepared: Prepared, samples: int, folder: Path) -> Path:
    """Statistics of the real images, the floor at N = `samples`, and images for the report; made where missing."""
    path = folder / f"reference-{prepared.data.content_sha256[:12]}-{prepared.data.held_out_sha256[:12]}-{samples}.npz"
    if not path.exists():
        train, _ = read_images(prepared.shards)
        held_out, labels = read_images(prepared.held_out)
        real = real_statistics(train, held_out, labels, samples)
        write_bytes_atomic(path, real.to_bytes())
        grid = balanced(labels, REAL_GRID)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=held_out[grid], labels=labels[grid])
        write_bytes_atomic(folder / "real.npz", buffer.getvalue())
    return path
