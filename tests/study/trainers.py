"""Trainers of this process alone, and their state as whole tensors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from data_pipeline.reader import LatentReader
from scaling.config.sections import Launch
from scaling.methods.batch import Batch
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpoint, Checkpointer, load
from scaling.training.checkpoints.files import path_of
from scaling.training.origin import Origin
from scaling.training.trainer import Trainer
from tests.training.checkpoint_states import ALONE

PLAIN = Launch(device="cpu")


def trainer_of(
    spec: RunSpec,
    reader: LatentReader | Path,
    origin: Origin | None,
    launch: Launch = PLAIN,
    start: Origin | None = None,
) -> Trainer:
    """A trainer before its first step; reader: of shards, or their folder."""
    opened = LatentReader(reader) if isinstance(reader, Path) else reader
    return Trainer(spec, opened, origin, launch, ALONE, start=start)


def batch_of(trainer: Trainer) -> Batch:
    """All samples of the trainer's next step, which are one pass."""
    (batch,) = trainer.batches.step(trainer.step)
    return batch


def saved(trainer: Trainer, folder: Path) -> Checkpoint:
    """The checkpoint of the trainer's state in a folder of checkpoints, once it is there."""
    checkpointer = Checkpointer(folder, ALONE, keep=2)
    checkpointer.save(trainer.step, trainer.pieces(), trainer.metadata())
    checkpointer.close()
    return load(path_of(folder, trainer.step))


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """All tensors of the trainer's state, views that follow training."""
    return {name: piece.local.view(piece.shape) for name, piece in trainer.pieces().items()}
