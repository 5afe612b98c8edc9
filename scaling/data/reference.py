"""The real images that samples are judged by: their statistics, the floor, and some to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.reader import LatentReader
from models.vae import Decoder
from scaling.data.sources import BATCH, Prepared
from scaling.evaluation.score import REAL_GRID, Real, balanced, real_statistics
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples
from scaling.sampling.generate import run_decoder


def read_images(shards: Path, decoder: Decoder, numbers: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of a folder of shards, decoded, and their labels int64 [N].

    numbers: of the samples that are wanted; None: all. Of moments the mean is decoded.
    """
    reader = LatentReader(shards)
    wanted, channels = np.arange(len(reader)) if numbers is None else numbers, reader.manifest.latent_shape[0]
    parts = []
    for start in range(0, len(wanted), BATCH):
        latents, _ = reader.read(wanted[start : start + BATCH])
        parts.append(decoder.latents(torch.from_numpy(latents[:, :channels]).float()).numpy())
    return np.concatenate(parts), reader.labels[wanted]


def write_reference(prepared: Prepared, samples: int, folder: StudyFolder) -> Path:
    """Statistics of the real images, the floor at N = `samples`, and images for the report.

    Made where they are missing; a damaged file is set aside and made again.
    """
    data = prepared.data
    path = folder.path / f"reference-{data.content_sha256[:12]}-{data.held_out_sha256[:12]}-{samples}.npz"
    known = path.exists() and sound(path, lambda: Real.load(path, path.stem))
    shown = folder.real.exists() and sound(folder.real, lambda: read_samples(folder.real, REAL))
    if not known or not shown:
        decoder = run_decoder(data, prepared.vae, torch.device("cpu"))
        held_out, labels = read_images(prepared.held_out, decoder)
        if not known:
            train, _ = read_images(prepared.shards, decoder)
            write_bytes_atomic(path, real_statistics(train, held_out, labels, samples).to_bytes(path.stem))
        if not shown:
            grid = balanced(labels, REAL_GRID)
            write_bytes_atomic(folder.real, Samples(held_out[grid], labels[grid], REAL).to_npz())
    return path
