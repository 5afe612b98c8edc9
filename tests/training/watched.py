"""Small runs through the real loop, for the tests of what watches training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.trigflow import TrigFlowNet
from scaling.config.families import CONFIGS
from scaling.config.sections import Launch
from scaling.data.sources import pack_images
from scaling.run.spec import RunData, RunSpec
from scaling.study.expand import expand
from scaling.study.open import open_study
from scaling.training.loop import train
from scaling.training.origin import InMemory
from scaling.training.sharding.world import World
from tests.models.networks import network

CPU = torch.device("cpu")
STEPS = 6


def spec_of(method: str, *overrides: str) -> RunSpec:
    """A run of `STEPS` steps of the smallest network, its teacher sampled in two steps, its student in one and two."""
    recipe = [f"{m}.{key}" for m in ("teacher", "scd", "sct") for key in (f"steps={STEPS}", "batch=8", "dropout=0.2")]
    changes = ["sizes=[xs]", "sampling.teacher_steps=2", *recipe, "by_size={}", *overrides]
    study = open_study(CONFIGS / "study" / "fashion.yaml", changes)
    data = RunData(content_sha256="a", held_out_sha256="b", encoder=study.config.data.encoder)
    return next(run.spec for run in expand(study.config, study.family, data) if run.spec.method == method)


def noise_shards(folder: Path) -> LatentReader:
    """32 images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 1), dtype=np.uint8)
    pack_images(images, np.arange(32) % 10, get_encoder("fashion-s2d-v1"), folder, "noise", 10)
    return LatentReader(folder)


def small_network(spec: RunSpec) -> TrigFlowNet:
    """A network of the run's shape that is not zero."""
    return network(torch.float32, spec.network_config()).requires_grad_(False)


def run(spec: RunSpec, home: Path, reader: LatentReader, launch: Launch) -> None:
    """Train it in this process to its end."""
    home.mkdir(exist_ok=True)
    origin = None if spec.method == "teacher" else InMemory(spec.network_config(), small_network(spec).state_dict())
    train(spec, home, reader, origin, launch, World(0, 1, CPU), lambda: False)
