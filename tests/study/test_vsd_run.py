"""VSD and sCD+VSD through every stage of a study: trained, killed and continued, sampled, judged, reported."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.network import SIGMA_DATA, T_MAX
from models.trigflow import denoise
from scaling.config.validation import ConfigError
from scaling.evaluation.extract import extract
from scaling.report.build import build_report
from scaling.run.home import RunHome, write_model
from scaling.run.spec import load_run
from scaling.sampling.draw import draw_of
from scaling.sampling.evaluations import samples_of
from scaling.training.checkpoints import checkpoint
from scaling.training.origin import InMemory
from scaling.training.sharding.world import World
from scaling.training.start import GUIDANCE_KEYS, averaged_weights
from scaling.weights.trained import final_network
from scaling.work.drawn import Drawn
from scaling.work.guidance import judge_guidance
from scaling.work.judging import opened
from scaling.work.search import variables_of
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from tests.study.trainers import batch_of, saved, tensors, trainer_of

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib
METHODS = ("teacher", "scd", "vsd", "scd_vsd")
STEPS = 6
RECIPE = {"steps": STEPS, "batch": 8, "lr": 0.01, "lr_rampup_images": 0, "teacher_ema": 0.1, "dropout": 0.1}
CHANGES: dict[str, Any] = {
    "methods": [*METHODS],
    "teacher": {"steps": STEPS, "batch": 8, "label_dropout": 0.2},
    "scd": {"steps": STEPS, "batch": 8, "guidance": [1, 2]},
    "vsd": {**RECIPE, "guidance": [1, 2]},
    "scd_vsd": {**RECIPE, "warmup_steps": 3, "guidance": [1, 2]},
    "ema": {"sigma_rel": [0.1, 0.05]},
    "sampling": {"teacher_steps": 2, "student_ema": 0.05, "student_guidance": {1: 1.5, 2: 1.25}},
    "evaluation": {"metric": ["fd-fashion", "precision-fashion", "recall-fashion"], "guidance": [1.5, 1.25, 1]},
    "launch": {"log_every": 1, "checkpoint_keep": 6},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, write_study: Fixture, homes_of: Fixture) -> Fixture:
    """The study after all its runs, one after the other in this process."""
    homes = homes_of(write_study(tmp_path_factory.mktemp("vsd"), **CHANGES))
    for method in METHODS:
        run(homes.of(method), StopRequest())
    return homes


def last(homes: Fixture, method: str) -> checkpoint.Checkpoint:
    return checkpoint.load(homes.saved(method)[-1])


@pytest.mark.parametrize("method", ["vsd", "scd_vsd"])
def test_the_fake_score_has_weights_and_moments_of_its_own(ended: Fixture, method: str) -> None:
    """Beside the student's, whose names are those of every method; it has no averages, and both moved."""
    found = last(ended, method)
    parts = {name.rsplit("/", 1)[0] for name in found.stored}
    student = {"model", "ema-0.1", "ema-0.05", "adam-exp_avg", "adam-exp_avg_sq"}
    assert parts == student | {"fake/model", "fake/adam-exp_avg", "fake/adam-exp_avg_sq"}
    first = checkpoint.load(ended.saved(method)[0])
    for part in ("model/", "fake/model/"):
        before, after = first.part(part), found.part(part)
        assert not torch.equal(before["unet.out_conv.weight"], after["unet.out_conv.weight"])
    line = ended.metrics(method)[-1]
    names = {"fake_loss", "fake_grad_norm", "fake_velocity_error", "fake_weight", "score_difference"}
    assert names <= line.keys()
    assert ("tangent_norm" in line) == (method == "scd_vsd")


def test_the_generator_of_one_step_is_judged_in_one_step(ended: Fixture) -> None:
    for method, wanted in (("vsd", [(1, 1)]), ("scd_vsd", [(1, 1), (2, 2)])):
        scores = json.loads((ended.of(method) / "scores.json").read_text())
        assert [(each["steps"], each["nfe"]) for each in scores["metrics"][0]["scores"]] == wanted
        assert scores["method"] == method


def test_commands_ask_for_no_second_step(ended: Fixture, cli: Fixture, tmp_path: Path) -> None:
    home = ended.of("vsd")
    refused = cli("sample", home, "--to", tmp_path / "grid.png", "--steps", 2)
    assert refused.code == 2
    assert f"--steps 2: {home.name} is a generator of one step: choose 1" in refused.err
    with pytest.raises(ConfigError, match="--search intermediate-t: is for consistency models in 2 steps"):
        variables_of("intermediate-t", load_run(home).spec, home)
    drawn = cli("sample", home, "--to", tmp_path / "samples.npz", "--seeds", "0-3")
    assert drawn.code == 0, drawn.err


def test_the_report_names_both(ended: Fixture) -> None:
    build_report(ended.study)
    page = (ended.study / "report" / "index.html").read_text()
    for label in ("VSD, 1 step", "sCD+VSD, 2 steps", "Quality against guidance, size xs"):
        assert label in page
    assert (ended.study / "report" / "guidance.svg").exists()


def test_strengths_are_judged_by_every_metric(ended: Fixture) -> None:
    """At the strength that a run is sampled with, what stands in its scores; the guided teacher pays twice."""
    for method, at in (("teacher", {2: 1}), ("vsd", {1: 1.5}), ("scd_vsd", {1: 1.5, 2: 1.25})):
        home = RunHome(ended.of(method))
        scores, found = home.read_scores(), home.read_guidance()
        assert scores is not None
        assert found is not None
        assert [(one.steps, one.guidance) for one in found.points] == [(n, s) for n in at for s in (1.5, 1.25, 1)]
        by_place = {(one.steps, one.guidance): one.metrics for one in found.points}
        for metric in scores.metrics:
            for score in metric.scores:
                assert by_place[score.steps, at[score.steps]][metric.metric] == score
    teacher = RunHome(ended.of("teacher")).read_guidance()
    assert teacher is not None
    nfe = {one.guidance: one.metrics["fd-fashion"].nfe for one in teacher.points}
    assert nfe == {1.5: 6, 1.25: 6, 1: 3}


def test_what_is_judged_already_stays(tmp_path: Path, ended: Fixture) -> None:
    """One strength is missing, as after a kill: it alone is drawn, to what it was."""
    home = RunHome(ended.copy(tmp_path).of("vsd"))
    whole = home.read_guidance()
    assert whole is not None
    write_model(home.guidance, whole.model_copy(update={"points": whole.points[:2]}))
    spent: list[float] = []
    judge_guidance(load_run(home.path), home, World(0, 1, torch.device("cpu")), lambda: bool(spent.append(0)))
    assert home.read_guidance() == whole
    assert len(spent) == 2 + 2  # before each pass of 50 samples, and after it
    judge_guidance(load_run(home.path), home, World(0, 1, torch.device("cpu")), lambda: bool(spent.append(0)))
    assert len(spent) == 4


def test_ranks_draw_whole_passes_of_one_set(ended: Fixture) -> None:
    """What two ranks make of it is what one makes."""
    config = load_run(ended.of("vsd"))
    network = final_network(RunHome(ended.of("vsd")), config.spec, torch.device("cpu"))
    space, _ = opened(config, "fashion", torch.device("cpu"))
    draw, seeds = draw_of(config.spec, 1), np.arange(samples_of(config.spec))
    images = Drawn(config.spec, network, draw, seeds, torch.device("cpu"))
    shares = [images.share(rank, 2).seeds for rank in range(2)]
    assert all(len(share) for share in shares)
    assert len(shares[0]) % draw.batch == 0
    whole = extract(space, images, world=World(0, 1, torch.device("cpu")))
    first = Half(0, 2, torch.device("cpu"))
    extract(space, images, world=first)
    second = Half(1, 2, torch.device("cpu"), beside=first.given)
    np.testing.assert_array_equal(extract(space, images, world=second).features, whole.features)


@dataclass(frozen=True)
class Half(World):
    """One rank of two, which is told what the one before it has."""

    beside: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)

    def gathered(self, own: Any) -> list[Any]:
        self.given.append(own)
        return [*self.beside, own]


@pytest.mark.parametrize("method", ["vsd", "scd_vsd"])
def test_a_killed_run_ends_as_if_it_had_not_been(
    tmp_path: Path, ended: Fixture, spawn: Fixture, until: Fixture, method: str
) -> None:
    copied = ended.copy(tmp_path)
    for path in copied.saved(method)[1:]:
        copied.rewind(method) if (copied.of(method) / "samples").exists() else None
        remove(path)
    launched = spawn("scaling.work.worker", copied.of(method))
    until(lambda: len(copied.saved(method)) > 1)
    launched.kill(signal.SIGKILL)
    launched.wait()
    again = spawn("scaling.work.worker", copied.of(method)).wait()
    assert again.code == 0, again.err
    assert "continuing after step" in again.err
    copied.assert_as(ended, method)


def remove(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def origins(homes: Fixture) -> dict[str, InMemory]:
    """The teacher by its distilled average, the sCD student by that which it is sampled with."""
    return {
        method: InMemory(load_run(homes.of(method)).spec.network_config(), averaged_weights(last(homes, method), width))
        for method, width in (("teacher", 0.1), ("scd", 0.05))
    }


def test_what_each_network_starts_from(ended: Fixture, shards: dict[str, str]) -> None:
    """VSD's student and both fake scores are the teacher with a guidance input; sCD+VSD's student is that of sCD."""
    origin = origins(ended)
    for method, start in (("vsd", None), ("scd_vsd", origin["scd"])):
        spec = load_run(ended.of(method)).spec
        trainer = trainer_of(spec, Path(shards["source"]), origin["teacher"], start=start)
        student, fake = (trainer.engines[name].module.state_dict() for name in ("student", "fake"))
        taken = {name for name in origin["teacher"].state if not name.startswith("logvar")}
        assert fake.keys() - origin["teacher"].state.keys() == set(GUIDANCE_KEYS)
        for name in taken:
            assert torch.equal(fake[name], origin["teacher"].state[name])
            assert torch.equal(student[name], (start or origin["teacher"]).state[name])
        assert start is None or all(torch.equal(student[name], tensor) for name, tensor in start.state.items())
        batch = batch_of(trainer)
        losses = trainer.loss(batch, trainer.turns[-2])
        assert losses.drawn is not None
        t = torch.full_like(batch.t, T_MAX)
        net = trainer.networks["student"]
        f = net(batch.z / SIGMA_DATA, t, batch.labels, guidance=batch.guidance, drop=batch.dropout)
        assert torch.equal(losses.drawn, denoise(batch.z, f, t))
        assert {name: len(noise.t) for name, noise in batch.further.items()} == {"vsd": 8, "fake": 8}
        assert not torch.equal(batch.further["vsd"].z, batch.further["fake"].z)


def test_a_step_that_one_network_spoils_counts_for_neither(
    tmp_path: Path, ended: Fixture, shards: dict[str, str]
) -> None:
    """A fake score whose gradient is not finite holds the student back too, and is named with its network."""
    trainer = trainer_of(load_run(ended.of("vsd")).spec, Path(shards["source"]), origins(ended)["teacher"])
    trainer.train_step()
    before = saved(trainer, tmp_path).part("")
    parameter = dict(trainer.engines["fake"].module.named_parameters())["unet.out_gain"]
    handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
    entry = trainer.train_step().entry
    assert entry["loss"] == entry["loss"]
    assert entry["fake_grad_norm"] != entry["fake_grad_norm"]
    assert (trainer.step, trainer.updates, trainer.skipped) == (2, 1, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(trainer).items())
    handle.remove()
    trainer.train_step()
    assert trainer.updates == 2
