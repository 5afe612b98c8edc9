"""The runs whose steps are timed: trainers on synthetic latents, their clock, their memory, and the machine's rate."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.allocator import allocated_peak
from data_pipeline.reader import LatentReader
from data_pipeline.writer import write_shards
from models.network import NetworkConfig
from scaling.config.recipes import ConsistencyRecipe, Method, ScdVsdRecipe, TeacherRecipe, VsdRecipe
from scaling.config.sections import Ema, Evaluation, Launch, Precision, Sampling
from scaling.run.spec import RunData, RunSpec
from scaling.training.loss_scale import LossScale
from scaling.training.origin import Origin
from scaling.training.sharding.world import World
from scaling.training.trainer import AUTOCAST, Trainer

CASES: dict[str, tuple[Method, bool]] = {  # method, and whether its teacher is guided
    "teacher": ("teacher", False),
    "sCT": ("sct", False),
    "sCD": ("scd", False),
    "sCD guided": ("scd", True),
    "VSD": ("vsd", False),
    "sCD+VSD": ("scd_vsd", False),
}
STUDENTS = {"scd": ConsistencyRecipe, "sct": ConsistencyRecipe, "vsd": VsdRecipe, "scd_vsd": ScdVsdRecipe}
MATRIX = {"cpu": 1024, "cuda": 8192}  # rows of the matrices whose product is the measure
ENCODERS = {8: "fashion-s2d-v1", 64: "sd-vae-ft-mse-v1"}  # by resolution of the latents


@dataclass(frozen=True)
class Setting:
    """What is the same for the methods that are measured side by side."""

    family: str
    size: str
    strategy: Any
    compile: bool
    checkpointing: bool
    batch: int  # images a pass and rank, of which a step takes one
    precisions: tuple[str, ...]
    steps: int


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is gone when the process ends."""
    return tempfile.TemporaryDirectory()


@cache
def random_latents(network: NetworkConfig, samples: int = 512) -> LatentReader:
    """Shards of random latents float16 [C, H, W] and labels."""
    shape = (samples, network.latent_channels, network.resolution, network.resolution)
    generator = np.random.default_rng(0)
    latents = generator.standard_normal(shape, np.float32).astype(np.float16)
    classes = max(1, network.num_classes)
    labels = generator.integers(0, classes, samples).tolist()
    folder = Path(scratch().name) / str(len(list(Path(scratch().name).iterdir())))
    write_shards(zip(latents, labels, strict=True), folder, dataset="random", encoder="none", num_classes=classes)
    return LatentReader(folder)


def make_spec(network: NetworkConfig, setting: Setting, case: str, ranks: int) -> RunSpec:
    """The run of one method: the paper's recipes, at this batch."""
    method, guided = CASES[case]
    common: dict[str, Any] = {"steps": 1000, "batch": setting.batch * ranks, "lr": 1e-4}
    if method == "teacher":
        recipe = TeacherRecipe(**common, label_dropout=0.1)
    else:
        recipe = STUDENTS[method](**common, guidance=(1.0, 3.0) if guided else None)
    return RunSpec(
        method=method,
        size=setting.size,
        seed=0,
        precision=cast(Precision, setting.precisions[0]),
        network=replace(network, guidance=guided).describe(),
        data=RunData(content_sha256="", held_out_sha256="", encoder=ENCODERS[network.resolution]),
        recipe=recipe,
        ema=Ema(),
        sampling=Sampling(),
        evaluation=Evaluation(),
        max_nonfinite_steps=1000,
        weights=None,
        teacher=None,
        student=None,
    )


def make_trainer(case: str, origin: Origin, setting: Setting, world: World) -> Trainer:
    """A trainer before its first step; `origin` is what every method starts from."""
    launch = Launch(
        strategy=setting.strategy,
        devices=world.size,
        compile=setting.compile,
        activation_checkpointing=setting.checkpointing,
    )
    reader = random_latents(origin.config)
    return Trainer(make_spec(origin.config, setting, case, world.size), reader, origin, launch, world)


def set_precision(trainer: Trainer, precision: str) -> None:
    """Another precision for the same trainer: it decides about autocast and the loss scale alone."""
    trainer.spec = trainer.spec.model_copy(update={"precision": precision})
    trainer.scale = LossScale.of(precision)


def timed(action: Callable[[], object], world: World) -> float:
    """Milliseconds from all ranks being there to this device having finished."""
    wait = torch.cuda.synchronize if world.device.type == "cuda" else lambda: None
    wait()
    world.barrier()
    start = time.perf_counter()
    action()
    wait()
    return 1e3 * (time.perf_counter() - start)


def peak_bytes(trainer: Trainer) -> int:
    """The most bytes that are allocated at once in a step: on a GPU in all, on a CPU above those before it."""
    if trainer.world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer.train_step()
        return torch.cuda.max_memory_allocated()
    return allocated_peak(trainer.train_step)


def matrix_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of the product of two square matrices, the best of several."""
    n, dtype = MATRIX[device.type], AUTOCAST.get(precision, torch.float32)
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    alone, many = World(0, 1, device), 20 if device.type == "cuda" else 1
    best = min(timed(lambda: [a @ b for _ in range(many)], alone) for _ in range(10))
    return 2 * n**3 * many / (best / 1e3)
