"""The smallest run that trains: six steps of a teacher on 64 real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.fashion import load_fashion
from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.network import NetworkConfig
from scaling.config.recipes import TeacherRecipe
from scaling.config.sections import Ema, Evaluation, Launch, Sampling
from scaling.data.sources import pack_images
from scaling.run.spec import RunData, RunSpec
from scaling.training.sharding.world import World
from scaling.training.trainer import Trainer

SPEC = RunSpec(
    method="teacher",
    size="xs",
    seed=0,
    precision="fp32",
    network=NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8).describe(),
    data=RunData(content_sha256="", held_out_sha256="", encoder="fashion-s2d-v1"),
    recipe=TeacherRecipe(steps=6, batch=8, lr=0.01, lr_rampup_images=0),
    ema=Ema(sigma_rel=(0.05,)),
    sampling=Sampling(),
    evaluation=Evaluation(),
    max_nonfinite_steps=2,
    weights=None,
    teacher=None,
    student=None,
)


def pack_small(folder: Path) -> Path:
    """Shards of 64 images in a new folder."""
    images, labels = load_fashion("test")
    pack_images(images[:64, ..., None], labels[:64], get_encoder("fashion-s2d-v1"), folder / "all", "test", 10)
    return folder / "all"


def trainer_of(shards: Path, strategy: Any, world: World, **changes: Any) -> Trainer:
    """A trainer before its first step; changes: of the specification."""
    spec = SPEC.model_copy(update=changes)
    return Trainer(spec, LatentReader(shards), None, Launch(strategy=strategy, shard_devices=2), world)
