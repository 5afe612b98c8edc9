"""Training N steps at once is training k, saving, restoring in a new trainer, and training N - k: bit for bit."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models.unet
from data_pipeline.reader import LatentReader
from models.dropout import Dropout
from scaling.config.sections import Launch
from scaling.errors import Interrupted, TrainingError
from scaling.run.metrics import read_metrics
from scaling.run.spec import RunData, RunSpec
from scaling.study.expand import expand
from scaling.study.open import open_study
from scaling.training.checkpoints.checkpoint import Checkpoint, newest
from scaling.training.loop import train
from scaling.training.observe.metrics import MetricsLog
from scaling.training.origin import InMemory
from scaling.training.start import averaged_weights
from scaling.training.trainer import Trainer
from tests.study.trainers import batch_of, saved, tensors, trainer_of
from tests.training.checkpoint_states import ALONE

STEPS = 6
METHODS = ("teacher", "scd", "sct")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Small:
    """Six steps of the tiny study's runs, with all that is random in training: dropout, dropped labels and guidance.

    The teacher's checkpoint is of its second step.
    """

    def __init__(self, specs: dict[str, RunSpec], launch: Launch, shards: Path, folder: Path) -> None:
        self.specs, self.launch, self.folder = specs, launch, folder
        self.reader = LatentReader(shards)
        teacher = self.trainer("teacher")
        for _ in range(2):
            teacher.train_step()
        self.teacher = InMemory(teacher.engine.module.config, averaged_weights(self.saved(teacher), 0.1))

    def origin(self, method: str) -> InMemory | None:
        return None if method == "teacher" else self.teacher

    def trainer(self, method: str) -> Trainer:
        return trainer_of(self.specs[method], self.reader, self.origin(method), self.launch)

    def saved(self, trainer: Trainer) -> Checkpoint:
        return saved(trainer, self.folder / trainer.spec.method)

    def train(self, method: str, home: Path, should_stop: Callable[[], bool] = lambda: False) -> Checkpoint:
        """The newest checkpoint after training to the end."""
        home.mkdir(exist_ok=True)
        spec = self.specs[method]
        train(spec, home, self.reader, self.origin(method), self.launch, ALONE, should_stop)
        found = newest(home / "checkpoints", spec.identity(), ALONE)
        assert found is not None
        return found


@pytest.fixture
def small(tmp_path: Path, write_study: Any, shards: dict[str, str]) -> Small:
    recipe = {"steps": STEPS, "batch": 8, "dropout": 0.2}
    launch = {"log_every": 2, "checkpoint_seconds": 3600}
    path = write_study(
        tmp_path,
        teacher={**recipe, "label_dropout": 0.2},
        scd={**recipe, "guidance": [1, 2]},
        sct=recipe,
        ema={"sigma_rel": [0.1, 0.05]},
        sampling={"student_guidance": {1: 1.5, 2: 1.5}},
        launch=launch,
    )
    study = open_study(path)
    data = RunData(content_sha256="", held_out_sha256="", encoder="fashion-s2d-v1")
    specs = {run.spec.method: run.spec for run in expand(study.config, study.family, data)}
    return Small(specs, study.config.launch, Path(shards["source"]), tmp_path)


def state(trainer: Trainer) -> dict[str, Any]:
    return {**trainer.metadata(), **tensors(trainer)}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    different = [
        name
        for name, value in first.items()
        if not (torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name])
    ]
    assert different == []


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_trainer_goes_on_as_the_first_would_have(small: Small, method: str) -> None:
    at_once = small.trainer(method)
    logged = [at_once.train_step() for _ in range(STEPS)]
    before = small.trainer(method)
    for _ in range(STEPS // 2):
        before.train_step()
    after = small.trainer(method)
    after.restore(small.saved(before))
    assert_same(state(before), state(after))
    assert [after.train_step() for _ in range(STEPS // 2)] == logged[STEPS // 2 :]
    assert_same(state(at_once), state(after))
    assert any(name.startswith("adam-exp_avg_sq/") and value.any() for name, value in tensors(after).items())


@pytest.mark.parametrize("method", METHODS)
def test_dropout_reaches_the_network(small: Small, method: str) -> None:
    """The same keys give the same loss, other keys another, and no block as coarse as asked for none."""
    trainer = small.trainer(method)
    for _ in range(3):
        trainer.train_step()
    batch = batch_of(trainer)
    assert batch.dropout is not None

    def loss(drop: Dropout | None) -> float:
        return trainer.loss(replace(batch, dropout=drop)).loss.item()

    assert loss(batch.dropout) == loss(batch.dropout)
    assert len({loss(batch.dropout), loss(batch.dropout._replace(keys=batch.dropout.keys + 1)), loss(None)}) == 3
    assert loss(batch.dropout._replace(max_resolution=2)) == loss(None)


@pytest.mark.parametrize("method", METHODS)
def test_activation_checkpointing_changes_nothing(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain = small.train(method, tmp_path / "plain")
    calls: list[int] = []
    recomputed = models.unet.recomputed
    monkeypatch.setattr(models.unet, "recomputed", lambda *inputs: (calls.append(1), recomputed(*inputs))[1])
    small.launch = small.launch.model_copy(update={"activation_checkpointing": True})
    again = small.train(method, tmp_path / "recomputed")
    assert_same(plain.part(""), again.part(""))
    unet = small.trainer(method).engine.module.unet
    blocks = len(unet.enc) - 1 + len(unet.dec)
    assert len(calls) == STEPS * blocks


def poison(trainer: Trainer, steps: set[int]) -> Trainer:
    """Let the losses of these steps be NaN."""
    loss = trainer.loss

    def poisoned(batch: Any, turn: Any = None) -> Any:
        found = loss(batch, turn)
        return replace(found, loss=found.loss * float("nan")) if trainer.step in steps else found

    trainer.loss = poisoned
    return trainer


def test_skipped_steps_are_counted_over_a_restart(small: Small) -> None:
    at_once = poison(small.trainer("sct"), {2, 3})
    for _ in range(STEPS):
        at_once.train_step()
    assert (at_once.step, at_once.updates, at_once.skipped) == (STEPS, STEPS - 2, 2)
    before, after = (poison(small.trainer("sct"), {2, 3}) for _ in range(2))
    for _ in range(3):
        before.train_step()
    after.restore(small.saved(before))
    for _ in range(STEPS - 3):
        after.train_step()
    assert_same(state(at_once), state(after))


def test_a_run_of_bad_steps_ends_at_the_same_step_over_a_restart(small: Small) -> None:
    limit = small.specs["sct"].max_nonfinite_steps
    before = poison(small.trainer("sct"), set(range(100)))
    for _ in range(limit - 1):
        before.train_step()
    after = poison(small.trainer("sct"), set(range(100)))
    after.restore(small.saved(before))
    with pytest.raises(TrainingError, match=f"{limit} steps in a row up to step {limit} had a non-finite loss"):
        after.train_step()


def lines(home: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k not in ("images_per_second", "memory_bytes")} for entry in entries]


def test_a_stop_between_logged_steps_leaves_no_seam(small: Small, tmp_path: Path) -> None:
    final = small.train("sct", tmp_path / "at-once")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped after step 3 of 6, which is saved"):
        small.train("sct", tmp_path / "stopped", lambda: next(asked))
    # What a killed writer left: a line of a step after the checkpoint, and a line that is cut.
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 123.0}\n{"step": 6, "lo')
    resumed = small.train("sct", tmp_path / "stopped")
    assert_same({**final.metadata, **final.part("")}, {**resumed.metadata, **resumed.part("")})
    assert lines(tmp_path / "stopped") == lines(tmp_path / "at-once")
    assert [line["step"] for line in lines(tmp_path / "at-once")] == [2, 4, 6]


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = MetricsLog(tmp_path, 0, 8)
    log.write(2, {"loss": 0.5})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            log.write(4, {"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl").lines] == [2]


def test_a_finished_run_is_not_trained_again(small: Small, tmp_path: Path) -> None:
    first = small.train("teacher", tmp_path / "home")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*")}
    second = small.train("teacher", tmp_path / "home", lambda: pytest.fail("a step was taken"))
    assert_same(first.part(""), second.part(""))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "home").rglob("*")} == before
