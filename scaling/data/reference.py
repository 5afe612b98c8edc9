"""The real images that samples are judged by: their statistics, the floor, and some to look at."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.manifest import Manifest
from models.vae import Decoder
from scaling.config.sections import Evaluation, Loading
from scaling.data.opened import open_loading
from scaling.data.sources import BATCH, Prepared
from scaling.evaluation.score import REAL_GRID, Real, real_statistics
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples
from scaling.sampling.decode import run_decoder

log = logging.getLogger(__name__)


def read_images(
    shards: Path, decoder: Decoder, loading: Loading, chosen: np.ndarray | None = None, *, lenient: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of a folder of shards, decoded, and their labels int64 [N].

    chosen: numbers of the samples that are wanted; None: all. Of moments the mean is decoded. lenient: without those
    that cannot be read, which else are a DataError.
    """
    reader = open_loading(shards, loading, lenient=lenient)
    wanted, channels = np.arange(len(reader)) if chosen is None else chosen, reader.manifest.latent_shape[0]
    parts, whole = [], np.ones(len(wanted), bool)
    for start in range(0, len(wanted), BATCH):
        numbers = wanted[start : start + BATCH]
        rows = reader.rows(len(numbers))
        for row, error in reader.read_into(rows, numbers).items():
            if not lenient:
                raise error
            whole[start + row] = False
        kept = whole[start : start + len(numbers)]
        parts.append(decoder.latents(torch.from_numpy(rows.array[kept, :channels]).float()).numpy())
    return np.concatenate(parts), reader.labels[wanted[whole]]


def write_reference(prepared: Prepared, evaluation: Evaluation, folder: StudyFolder) -> Path:
    """Statistics of the real images, the floor at N samples unless nothing is judged, and images for the report.

    Made where they are missing; a damaged file is set aside and made again.
    """
    data, samples, loading = prepared.data, evaluation.samples, prepared.loading
    path = folder.path / f"reference-{data.content_sha256[:12]}-{data.held_out_sha256[:12]}-{samples}.npz"
    decoder = run_decoder(data, prepared.vae, torch.device("cpu"))
    if not (folder.real.exists() and sound(folder.real, lambda: read_samples(folder.real, REAL))):
        grid = _grid(open_loading(prepared.held_out, loading).labels)
        write_bytes_atomic(folder.real, Samples(*read_images(prepared.held_out, decoder, loading, grid), REAL).to_npz())
    known = path.exists() and sound(path, lambda: Real.load(path, path.stem))
    if evaluation.metric != "none" and not known:
        held_out, labels = read_images(prepared.held_out, decoder, loading)
        train, _ = read_images(prepared.shards, decoder, loading, lenient=loading.on_bad_shard == "skip")
        if lost := Manifest.load(prepared.shards).samples - len(train):
            log.warning("the statistics of the real images are those of all but %d that cannot be read", lost)
            path = path.with_stem(f"{path.stem}-without-{lost}")
        write_bytes_atomic(path, real_statistics(train, held_out, labels, samples).to_bytes(path.stem))
    return path


def _grid(labels: np.ndarray) -> np.ndarray:
    """Samples to look at: of each class in turn, as many as there are."""
    places = np.zeros(len(labels), np.int64)  # of each sample among those of its class
    for label in np.unique(labels):
        members = labels == label
        places[members] = np.arange(members.sum())
    return np.lexsort((labels, places))[:REAL_GRID]
