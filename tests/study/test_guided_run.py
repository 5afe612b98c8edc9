"""Guidance from the study file to the scores: a tiny guided sCD on real images, and what its first step starts from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.methods.guidance import NO_LABEL
from scaling.run.spec import load_run
from scaling.sampling.generate import generate
from scaling.training.checkpoints import checkpoint
from scaling.training.origin import InMemory
from scaling.training.start import GUIDANCE_KEYS, averaged_weights
from scaling.training.trainer import Trainer
from scaling.weights.trained import load_network
from scaling.work.stages import _origin, run
from scaling.work.stopping import StopRequest
from tests.study.trainers import batch_of, saved, trainer_of
from tests.training.checkpoint_states import ALONE

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib
CPU = torch.device("cpu")
GUIDED: dict[str, Any] = {
    "methods": ["teacher", "scd", "sct"],
    "teacher": {"steps": 4, "label_dropout": 0.25},
    "scd": {"steps": 3, "guidance": [1, 2]},
    "sct": {"steps": 2},
    "sampling": {"teacher_steps": 2, "teacher_guidance": 1.5, "student_guidance": {1: 1.5, 2: 1.25}},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def guided_homes(tmp_path: Path, write_study: Fixture, homes_of: Fixture) -> Fixture:
    return homes_of(write_study(tmp_path, **GUIDED))


def last(homes: Fixture, method: str) -> checkpoint.Checkpoint:
    return checkpoint.load(homes.saved(method)[-1])


def origin(homes: Fixture, found: checkpoint.Checkpoint) -> InMemory:
    """The teacher's average in a checkpoint, which students start from and distil."""
    return InMemory(load_run(homes.of("teacher")).spec.network_config(), averaged_weights(found, 0.1))


def student(homes: Fixture) -> Trainer:
    """A trainer of the guided student before its first step."""
    config = load_run(homes.of("scd"))
    return trainer_of(config.spec, config.shards, origin(homes, last(homes, "teacher")))


def inputs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 1.5, count), torch.arange(count)


def test_a_student_takes_the_average_that_its_recipe_names(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture
) -> None:
    """Neither the other student's nor that which the teacher is sampled with."""
    changes = {"teacher": {"steps": 3}, "ema": {"sigma_rel": [0.1, 0.05]}, "scd": {"teacher_ema": 0.05}}
    homes = homes_of(write_study(tmp_path, **changes))
    config = load_run(homes.of("teacher"))
    teacher = trainer_of(config.spec, config.shards, None)
    for _ in range(3):
        teacher.train_step()
    found = saved(teacher, homes.of("teacher") / "checkpoints")
    for method, profile, other in (("scd", "ema-0.05/", "ema-0.1/"), ("sct", "ema-0.1/", "ema-0.05/")):
        start = _origin(load_run(homes.of(method)), ALONE)
        assert start is not None
        state = start.frozen().state_dict()
        assert all(state[name].equal(tensor) for name, tensor in found.part(profile).items())
        assert not all(state[name].equal(tensor) for name, tensor in found.part(other).items())


def test_a_guided_student_from_data_to_scores(guided_homes: Fixture, tmp_path: Path, cli: Fixture) -> None:
    for method in ("teacher", "scd", "sct"):
        run(guided_homes.of(method), StopRequest())
    scores = {m: json.loads((guided_homes.of(m) / "scores.json").read_text()) for m in ("teacher", "scd", "sct")}
    nfe = {m: [(s["steps"], s["nfe"]) for s in found["metrics"][0]["scores"]] for m, found in scores.items()}
    assert nfe == {"teacher": [(2, 6)], "scd": [(1, 1), (2, 2)], "sct": [(1, 1), (2, 2)]}

    config, found = load_run(guided_homes.of("scd")), last(guided_homes, "scd")
    assert found.step == 3
    net = load_network(found, config.spec, CPU)
    assert net.unet.emb_guidance_gain.item() != 0  # it was trained
    x, t, labels = inputs()
    weak, strong = (net(x, t, labels, guidance=torch.full((4,), s)) for s in (1.0, 2.0))
    assert not torch.equal(weak, strong)
    to = tmp_path / "grid.png"
    assert cli("sample", guided_homes.saved("scd")[-1], "--to", to, "--seeds", "0-2", "--steps", 2).code == 0
    assert to.exists()


def test_students_are_sampled_with_the_strength_of_their_steps(guided_homes: Fixture) -> None:
    spec, seen = load_run(guided_homes.of("scd")).spec, []

    def network(
        x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, *, guidance: Any = None, to: Any = None
    ) -> torch.Tensor:
        seen.append(guidance.tolist())
        return torch.zeros_like(x)

    batch = spec.sampling.batch  # the last pass is as large as the others
    for steps in (1, 2):
        generate(spec, network, steps, 3, CPU)
    assert seen == [[1.5] * batch, [1.25] * batch, [1.25] * batch]


def test_teachers_are_sampled_with_and_without_labels(guided_homes: Fixture) -> None:
    spec, seen = load_run(guided_homes.of("teacher")).spec, []

    def network(
        x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, *, guidance: Any = None, to: Any = None
    ) -> torch.Tensor:
        seen.append((guidance, labels.tolist()))
        return torch.zeros_like(x)

    generate(spec, network, 2, 3, CPU)
    batch = spec.sampling.batch
    assert seen == [(None, [NO_LABEL] * batch + ([0, 1, 2] * batch)[:batch])] * 3


def test_a_guided_student_starts_as_its_teacher(guided_homes: Fixture) -> None:
    run(guided_homes.of("teacher"), StopRequest())
    trainer = student(guided_homes)
    teacher = load_network(last(guided_homes, "teacher"), load_run(guided_homes.of("teacher")).spec, CPU)
    x, t, labels = inputs()
    want = teacher(x, t, labels)
    assert want.abs().max() > 0
    for strength in (1.0, 2.0):
        assert torch.equal(trainer.engine.net(x, t, labels, guidance=torch.full((4,), strength)), want)
    assert set(trainer.engine.module.state_dict()) - set(teacher.state_dict()) == set(GUIDANCE_KEYS)


@pytest.mark.parametrize(("missing", "surplus"), [("unet.out_gain", None), (None, "unet.emb_other.weight")])
def test_only_the_guidance_input_may_be_missing(
    guided_homes: Fixture, missing: str | None, surplus: str | None
) -> None:
    run(guided_homes.of("teacher"), StopRequest())
    start = origin(guided_homes, last(guided_homes, "teacher"))
    state = {name: tensor for name, tensor in start.state.items() if name != missing}
    assert (len(state) < len(start.state)) == bool(missing)
    if surplus:
        state[surplus] = torch.zeros(1)
    config = load_run(guided_homes.of("scd"))
    with pytest.raises(RuntimeError, match=missing or surplus or ""):
        trainer_of(config.spec, config.shards, InMemory(start.config, state))


def stream(trainer: Trainer, steps: int) -> list[Any]:
    """The batches of the first steps."""
    batches = []
    for trainer.step in range(steps):
        batches.append(batch_of(trainer))
    return batches


def test_what_is_drawn_for_each_sample(guided_homes: Fixture, write_study: Fixture) -> None:
    """Labels of a teacher are lost at the asked rate, those of a student never; s fills its interval; keys are new."""
    configs = {method: load_run(guided_homes.of(method)) for method in ("teacher", "scd", "sct")}
    shards = configs["teacher"].shards
    teacher = trainer_of(configs["teacher"].spec, shards, None)
    start = origin(guided_homes, saved(teacher, guided_homes.of("teacher") / "checkpoints"))
    batches = stream(teacher, 60)
    labels = torch.cat([b.labels for b in batches])
    assert (labels == NO_LABEL).double().mean().item() == pytest.approx(0.25, abs=0.06)
    drops = [b.dropout for b in batches]
    assert {(d.rate, d.max_resolution) for d in drops} == {(0.1, None)}
    assert len(torch.cat([d.keys for d in drops]).unique()) == len(labels)
    assert all(b.guidance is None for b in batches)

    guided, plain = (stream(trainer_of(configs[m].spec, shards, start), 60) for m in ("scd", "sct"))
    strengths = torch.cat([b.guidance for b in guided])
    assert 1 <= strengths.min() < 1.02 < 1.98 < strengths.max() <= 2
    assert strengths.mean().item() == pytest.approx(1.5, abs=0.04)
    assert all(b.guidance is None for b in plain)
    assert (torch.cat([b.labels for b in guided]) != NO_LABEL).all()
    assert {(b.dropout.rate, b.dropout.max_resolution) for b in guided} == {(0.1, 16)}


def test_steps_without_a_strength_are_refused(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture, cli: Fixture
) -> None:
    sampling = {**GUIDED["sampling"], "student_steps": [1], "student_guidance": {1: 1.5}}
    homes = homes_of(write_study(tmp_path, **{**GUIDED, "sampling": sampling}))
    config = load_run(homes.of("teacher"))
    teacher = saved(trainer_of(config.spec, config.shards, None), tmp_path / "teacher")
    student = trainer_of(load_run(homes.of("scd")).spec, config.shards, origin(homes, teacher))
    path = saved(student, tmp_path / "student").path
    result = cli("sample", path, "--to", tmp_path / "grid.png", "--seeds", "0-1", "--steps", 2)
    assert result.code == 2
    assert "--steps 2: the run's sampling.student_guidance has no strength for it, only for steps 1" in result.err
    assert cli("sample", path, "--to", tmp_path / "grid.png", "--seeds", "0-1").code == 0
