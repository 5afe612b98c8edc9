"""The real images that samples are judged by: their statistics, the floor, and some to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.reader import LatentReader
from models.vae import Decoder
from scaling.config.sections import Evaluation
from scaling.data.sources import BATCH, Prepared
from scaling.evaluation.score import REAL_GRID, Real, real_statistics
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples
from scaling.sampling.decode import run_decoder


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


def write_reference(prepared: Prepared, evaluation: Evaluation, folder: StudyFolder) -> Path:
    """Statistics of the real images, the floor at N samples unless nothing is judged, and images for the report.

    Made where they are missing; a damaged file is set aside and made again.
    """
    data, samples = prepared.data, evaluation.samples
    path = folder.path / f"reference-{data.content_sha256[:12]}-{data.held_out_sha256[:12]}-{samples}.npz"
    decoder = run_decoder(data, prepared.vae, torch.device("cpu"))
    if not (folder.real.exists() and sound(folder.real, lambda: read_samples(folder.real, REAL))):
        grid = _grid(LatentReader(prepared.held_out).labels)
        folder_images, labels = read_images(prepared.held_out, decoder, grid)
        write_bytes_atomic(folder.real, Samples(folder_images, labels, REAL).to_npz())
    known = path.exists() and sound(path, lambda: Real.load(path, path.stem))
    if evaluation.metric != "none" and not known:
        held_out, labels = read_images(prepared.held_out, decoder)
        train, _ = read_images(prepared.shards, decoder)
        write_bytes_atomic(path, real_statistics(train, held_out, labels, samples).to_bytes(path.stem))
    return path


def _grid(labels: np.ndarray) -> np.ndarray:
    """Samples to look at: of each class in turn, as many as there are."""
    places = np.zeros(len(labels), np.int64)  # of each sample among those of its class
    for label in np.unique(labels):
        members = labels == label
        places[members] = np.arange(members.sum())
    return np.lexsort((labels, places))[:REAL_GRID]
