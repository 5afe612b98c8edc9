"""The real images that samples are judged by: their statistics in each space, the floors, and some to look at."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from data_pipeline.files import write_bytes_atomic
from models.vae import Decoder
from scaling.config.metrics import TRUTH, SpaceName
from scaling.config.sections import Evaluation
from scaling.data.opened import open_loading
from scaling.data.sources import Prepared
from scaling.evaluation.images.shards import ShardImages
from scaling.evaluation.judge import Settings
from scaling.evaluation.real import REAL_GRID, Real, balanced, in_turn, real_statistics
from scaling.evaluation.spaces.open import open_space
from scaling.evaluation.spaces.space import Space
from scaling.evaluation.truth import Truth, find_truth, truth_name
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples
from scaling.sampling.decode import run_decoder

log = logging.getLogger(__name__)


def images_of(
    prepared: Prepared,
    shards: Path,
    decoder: Decoder | None = None,
    places: np.ndarray | None = None,
    *,
    lenient: bool = False,
) -> ShardImages:
    """The images of one folder of a study's shards, all or those at `places`; decoder: that of the study, if opened."""
    decoder = decoder or run_decoder(prepared.data, prepared.vae, torch.device("cpu"))
    opened = open_loading(shards, prepared.loading, lenient=lenient)
    return ShardImages(shards, places, decoder, opened, lenient)


def write_references(
    prepared: Prepared, evaluation: Evaluation, folder: StudyFolder, device: torch.device
) -> dict[SpaceName, Path]:
    """Statistics of the real images and the floors at N in each space that the metrics ask for, and images to look at.

    Made where they are missing; a damaged file is set aside and made again. SpaceError where a network is not there.
    """
    decoder = run_decoder(prepared.data, prepared.vae, device)
    _write_shown(prepared, decoder, folder)
    return {
        name: _write_truth(evaluation, folder)
        if name == TRUTH
        else _write_reference(prepared, decoder, evaluation, name, folder, device)
        for name in evaluation.spaces
    }


def _write_truth(evaluation: Evaluation, folder: StudyFolder) -> Path:
    path = folder.path / f"{truth_name(evaluation.samples)}.npz"
    if not path.exists() or not sound(path, lambda: Truth.load(path)):
        write_bytes_atomic(path, find_truth(evaluation.samples).to_bytes())
    return path


def _write_reference(
    prepared: Prepared,
    decoder: Decoder,
    evaluation: Evaluation,
    name: SpaceName,
    folder: StudyFolder,
    device: torch.device,
) -> Path:
    space = open_space(name, evaluation.files, evaluation.resize, device)
    metrics = [metric for metric in evaluation.metrics if metric.space == name]
    path = folder.path / f"{_stem(prepared, evaluation, space)}.npz"
    known = path.exists() and sound(path, lambda: Real.load(path, path.stem))
    if known and all(metric.name in known.floors for metric in metrics):
        return path
    labels = images_of(prepared, prepared.held_out, decoder).labels
    chosen = images_of(prepared, prepared.held_out, decoder, balanced(labels, evaluation.samples))
    train = images_of(prepared, prepared.shards, decoder, lenient=prepared.loading.on_bad_shard == "skip")
    settings = Settings(k=evaluation.neighbours, device=str(device))
    real = real_statistics(space, metrics, train, chosen, settings)
    if lost := train.count - real.count:
        log.warning("the statistics of the real images are those of all but %d that cannot be read", lost)
        path = path.with_stem(f"{path.stem}-without-{lost}")
    write_bytes_atomic(path, real.to_bytes(path.stem))
    return path


def _stem(prepared: Prepared, evaluation: Evaluation, space: Space) -> str:
    data, about = prepared.data, space.about
    parts = [about.space, *([about.resize] if about.resize else []), about.sha256[:8]]
    kept = [data.content_sha256[:12], data.held_out_sha256[:12], str(evaluation.samples)]
    return "-".join(
        ["reference", *parts, *kept, *([f"k{evaluation.neighbours}"] if evaluation.neighbours != 3 else [])]
    )


def _write_shown(prepared: Prepared, decoder: Decoder, folder: StudyFolder) -> None:
    if folder.real.exists() and sound(folder.real, lambda: read_samples(folder.real, REAL)):
        return
    labels = images_of(prepared, prepared.held_out, decoder).labels
    shown = images_of(prepared, prepared.held_out, decoder, in_turn(labels)[:REAL_GRID])
    write_bytes_atomic(folder.real, Samples(next(shown.batches(REAL_GRID)), shown.labels, REAL).to_npz())
