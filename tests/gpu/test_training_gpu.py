"""A run trains on a GPU as it does on a CPU, in every precision, and its checkpoints go from one to the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.reader import LatentReader
from scaling.config.recipes import ConsistencyRecipe
from scaling.config.sections import Launch
from scaling.run.metrics import read_metrics
from scaling.training.checkpoints.checkpoint import Checkpointer, newest
from scaling.training.loop import train
from scaling.training.origin import InMemory
from scaling.training.sharding.world import World
from scaling.training.trainer import Trainer
from tests.training.small import SPEC, pack_small, trainer_of

pytestmark = pytest.mark.gpu
STEPS = 6
CPU = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def gpu(device: torch.device) -> World:
    return World(0, 1, device)


def trainer(shards: Path, method: str, world: World, precision: str = "fp32", **launch: Any) -> Trainer:
    """A teacher, or a student of an untrained one."""
    if method == "teacher":
        return trainer_of(shards, "auto", world, precision=precision)
    teacher = trainer_of(shards, "auto", CPU).engine.module
    recipe = ConsistencyRecipe(steps=STEPS, batch=8, lr=0.001, lr_rampup_images=0)
    spec = SPEC.model_copy(update={"method": method, "recipe": recipe, "precision": precision})
    origin = InMemory(teacher.config, teacher.state_dict())
    return Trainer(spec, LatentReader(shards), origin, Launch(**launch), world)


@pytest.mark.parametrize("method", ["teacher", "scd", "sct"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.1), ("fp16", 0.03)])
def test_losses_are_those_of_a_cpu(shards: Path, gpu: World, method: str, precision: str, tolerance: float) -> None:
    """TF32 is off by default; halves differ by their roundoff (2^-8, 2^-11), some dozen layers deep."""
    there, here = (trainer(shards, method, world, precision) for world in (gpu, CPU))
    there.scale.value = here.scale.value = 256.0 if precision == "fp16" else 1.0  # low enough from the first step on
    got, wanted = ([each.train_step().entry["loss"] for _ in range(STEPS)] for each in (there, here))
    assert got == pytest.approx(wanted, rel=tolerance)
    assert there.updates == STEPS


def test_a_checkpoint_goes_from_a_gpu_to_a_cpu_and_back(shards: Path, gpu: World, tmp_path: Path) -> None:
    first = trainer(shards, "sct", gpu)
    first.train_step()
    for number, world in enumerate((CPU, gpu), 2):
        folder = tmp_path / str(number)
        writer = Checkpointer(folder, CPU, keep=1)
        writer.save(first.step, first.pieces(), first.metadata())
        writer.close()
        found = newest(folder, first.spec.identity(), CPU)
        assert found is not None
        second = trainer(shards, "sct", world)
        second.restore(found)
        for name, piece in first.pieces().items():
            assert torch.equal(piece.local.cpu(), second.pieces()[name].local.cpu()), name
        wanted, got = first.train_step().entry["loss"], second.train_step().entry["loss"]
        assert got == pytest.approx(wanted, rel=1e-3)
        first = second


def test_compiled_blocks_compute_the_same(shards: Path, gpu: World) -> None:
    losses = [
        [run.train_step().entry["loss"] for _ in range(3)]
        for run in (trainer(shards, "sct", gpu), trainer(shards, "sct", gpu, compile=True))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_loop_records_memory_and_a_profile(shards: Path, gpu: World, tmp_path: Path) -> None:
    launch = Launch(log_every=1, profile=(2, 3), memory_snapshot=True, grid_steps=3)
    train(SPEC, tmp_path, LatentReader(shards), None, launch, gpu, lambda: False)
    lines = read_metrics(tmp_path / "metrics.jsonl").lines
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(line["memory_bytes"] > 0 and math.isfinite(line["loss"]) for line in lines)
    assert {path.suffix for path in (tmp_path / "profile").iterdir()} == {".gz", ".txt", ".pickle"}
    assert len(list((tmp_path / "grids").iterdir())) == 2
