"""One step of training: its rate, steps that all ranks skip together, wishes that all hear, the scale of float16."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.config.recipes import TeacherRecipe
from scaling.config.sections import Ema
from scaling.errors import TrainingError
from scaling.training.sharding.world import World, joined
from scaling.training.trainer import Trainer, learning_rate
from tests.ranks import run_ranks
from tests.training.small import pack_small, trainer_of

CPU = torch.device("cpu")
STRATEGIES = ["ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small(tmp_path_factory.mktemp("shards"))


def spoil(trainer: Trainer, steps: set[int]) -> None:
    """The loss of this rank is not a number at these steps, counted from 0."""
    right = trainer.loss

    def loss(batch: Any, turn: Any = None) -> Any:
        found = right(batch, turn)
        return replace(found, loss=found.loss * math.nan) if trainer.step in steps else found

    trainer.loss = loss


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: piece.local.clone() for name, piece in trainer.engine.weights().items()}


def test_averages_follow_the_weights_that_a_step_left(shards: Path) -> None:
    """The closed form of three updates at a half-life; at a power-function profile the first update leaves theta_1."""
    ema = Ema(sigma_rel=(0.05,), half_life_images=(16,))
    trainer = trainer_of(shards, "ddp", World(0, 1, CPU), ema=ema)
    beta, visited = 0.5 ** (8 / 16), [weights(trainer)]
    for _ in range(3):
        trainer.train_step()
        visited.append(weights(trainer))
        if len(visited) == 2:
            first = trainer.averages.pieces("ema-0.05")
            assert all(torch.equal(first[name].local, tensor) for name, tensor in visited[1].items())
    shares = [beta**3, *((1 - beta) * beta ** (3 - n) for n in (1, 2, 3))]
    found = trainer.averages.pieces("ema-16images")
    for name in visited[0]:
        wanted = sum((share * each[name] for share, each in zip(shares, visited, strict=True)), torch.zeros(()))
        torch.testing.assert_close(found[name].local, wanted, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(tensor, visited[1][name]) for name, tensor in visited[0].items())


def skip_one(shards: Path, strategy: str) -> tuple[list[dict[str, float]], list[bool], int, int]:
    """Four steps of which rank 1 spoils the second: what each logged, whether it moved the weights, and the counts."""
    with joined(CPU) as world:
        trainer = trainer_of(shards, strategy, world)
        if world.rank == 1:
            spoil(trainer, {1})
        logged, moved = [], []
        for _ in range(4):
            before = weights(trainer)
            logged.append(trainer.train_step().entry)
            moved.append(any(not torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items()))
        assert all(tensor.isfinite().all() for tensor in weights(trainer).values())
        return logged, moved, trainer.updates, trainer.skipped


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bad_loss_on_one_rank_is_skipped_by_all(shards: Path, strategy: str) -> None:
    first, second = run_ranks(2, skip_one, shards, strategy)
    logged, moved, updates, skipped = first
    assert (moved, updates, skipped) == ([True, False, True, True], 3, 1)
    assert second[1:] == first[1:]
    assert math.isnan(logged[1]["loss"])
    assert [logged[n] for n in (0, 2, 3)] == [second[0][n] for n in (0, 2, 3)]


def fail(shards: Path, strategy: str) -> str:
    with joined(CPU) as world:
        trainer = trainer_of(shards, strategy, world)
        trainer.train_step()
        if world.rank == 0:
            spoil(trainer, {1, 2})
        trainer.train_step()
        with pytest.raises(TrainingError) as error:
            trainer.train_step()
        return str(error.value)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2"])
def test_too_many_bad_steps_end_all_ranks_with_the_name_of_a_tensor(shards: Path, strategy: str) -> None:
    first, second = run_ranks(2, fail, shards, strategy)
    assert first == second
    assert first.startswith("2 steps in a row up to step 3 had a non-finite loss or gradient; the first non-finite")
    assert "is that of unet.out_gain" in first


def test_the_first_bad_tensor_is_named(shards: Path) -> None:
    trainer = trainer_of(shards, "auto", World(0, 1, CPU))
    name = "unet.enc.8x8_block0.conv_res0.weight"
    parameter = dict(trainer.engine.module.named_parameters())[name]
    parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), math.inf))
    trainer.train_step()
    with pytest.raises(TrainingError, match=f"first non-finite gradient is that of {name}"):
        trainer.train_step()


def ask(shards: Path) -> list[frozenset[str]]:
    with joined(CPU) as world:
        trainer = trainer_of(shards, "ddp", world)
        asked = [
            {"stop": False, "save": False},
            {"stop": world.rank == 1, "save": False},
            {"stop": False, "save": True},
        ]
        return [trainer.train_step(wishes).wishes for wishes in asked]


def test_a_wish_of_one_rank_is_heard_by_all(shards: Path) -> None:
    heard = [frozenset(), frozenset({"stop"}), frozenset({"save"})]
    assert run_ranks(2, ask, shards) == [heard, heard]


def overflow(shards: Path, strategy: str) -> tuple[list[float], list[float]]:
    with joined(CPU) as world:
        trainer = trainer_of(shards, strategy, world, precision="fp16", max_nonfinite_steps=200)
        trainer.scale.value = 2.0**30
        scales, norms = [], []
        while not trainer.updates:
            entry = trainer.train_step().entry
            norms.append(entry["grad_norm"])
            scales.append(entry["loss_scale"])
        return scales, norms


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero3"])
def test_the_scale_of_float16_falls_until_no_gradient_overflows(shards: Path, strategy: str) -> None:
    first, second = run_ranks(2, overflow, shards, strategy)
    assert first[0] == second[0]
    scales, norms = first
    skipped = len(scales) - 1
    assert skipped > 5
    assert scales == [2.0 ** (30 - n) for n in range(len(scales))]
    assert [math.isfinite(norm) for norm in norms] == [False] * skipped + [True]
    # What is logged is the gradient of the loss, whatever the scale.
    plain = trainer_of(shards, "auto", World(0, 1, CPU))
    plain.step = skipped
    assert norms[-1] == pytest.approx(plain.train_step().entry["grad_norm"], rel=1e-2)


def test_the_learning_rate_rises_with_images_and_falls_with_steps() -> None:
    recipe = TeacherRecipe(steps=1, batch=10, lr=0.5, lr_decay_steps=20, lr_rampup_images=100)
    rates = [learning_rate(recipe, step) for step in (1, 5, 10, 20, 80, 2000)]
    assert rates == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.25, 0.05])
    assert learning_rate(recipe.model_copy(update={"lr_rampup_images": 0}), 1) == 0.5


def test_the_learning_rate_cools_over_the_last_steps() -> None:
    recipe = TeacherRecipe(steps=20, batch=10, lr=0.5, lr_decay_steps=20, lr_rampup_images=0, lr_cooldown=0.25)
    rates = [learning_rate(recipe, step) for step in (1, 16, 17, 18, 20)]
    assert rates == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.1])
