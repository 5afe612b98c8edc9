"""The real images that samples are judged by: their statistics in each space, the floors, and some to look at."""

from __future__ import annotations

from pathlib import Path

import torch

from data_pipeline.files import write_bytes_atomic
from models.vae import Decoder
from scaling.config.metrics import SpaceName
from scaling.config.sections import Evaluation
from scaling.data.sources import Prepared
from scaling.evaluation.images.shards import ShardImages
from scaling.evaluation.judge import Settings
from scaling.evaluation.real import REAL_GRID, Real, balanced, in_turn, real_statistics
from scaling.evaluation.spaces.open import open_space
from scaling.evaluation.spaces.space import Space
from scaling.run.home import StudyFolder, sound
from scaling.run.samples import REAL, Samples, read_samples
from scaling.sampling.generate import run_decoder


def write_references(
    prepared: Prepared, evaluation: Evaluation, folder: StudyFolder, device: torch.device
) -> dict[SpaceName, Path]:
    """Statistics of the real images and the floors at N in each space that the metrics ask for, and images to look at.

    Made where they are missing; a damaged file is set aside and made again. SpaceError where a network is not there.
    """
    decoder = run_decoder(prepared.data, prepared.vae, device)
    _write_shown(prepared, decoder, folder)
    return {name: _write_reference(prepared, decoder, evaluation, name, folder, device) for name in evaluation.spaces}


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
    if not (known and all(metric.name in known.floors for metric in metrics)):
        held_out = ShardImages(prepared.held_out, decoder=decoder)
        chosen = ShardImages(prepared.held_out, balanced(held_out.labels, evaluation.samples), decoder)
        settings = Settings(k=evaluation.neighbours, device=str(device))
        train = ShardImages(prepared.shards, decoder=decoder)
        real = real_statistics(space, metrics, train, chosen, settings)
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
    labels = ShardImages(prepared.held_out, decoder=decoder).labels
    shown = ShardImages(prepared.held_out, in_turn(labels)[:REAL_GRID], decoder)
    write_bytes_atomic(folder.real, Samples(next(shown.batches(REAL_GRID)), shown.labels, REAL).to_npz())
