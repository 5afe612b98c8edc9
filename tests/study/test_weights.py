"""A study whose teacher starts from a network at rest: taken as it is, of another flavour, trained on, and refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.network import FLAVOURS, NetworkConfig
from models.release import WEIGHTS
from models.trigflow import SIGMA_DATA
from scaling.config.families import load_family
from scaling.methods.consistency import Distillation
from scaling.methods.method import objective_of
from scaling.report.build import build_report
from scaling.run.spec import RunData, RunSpec, load_run
from scaling.sampling.generate import generate
from scaling.study.expand import expand
from scaling.study.open import open_study
from scaling.training.checkpoints import checkpoint
from scaling.training.loop import train
from scaling.training.origin import InMemory
from scaling.training.start import First, averaged_weights
from scaling.training.trainer import Trainer
from scaling.weights.folder import SavedModel, describe_network, load_model, save_model
from scaling.weights.trained import load_network
from scaling.work.stages import _at_rest, run
from scaling.work.stopping import StopRequest
from scaling.work.worker import main
from tests.study.trainers import batch_of, trainer_of
from tests.training.checkpoint_states import ALONE

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib
CPU = torch.device("cpu")
ENCODER = "fashion-s2d-v1"
DATA = RunData(content_sha256="", held_out_sha256="", encoder=ENCODER)
NANO = load_family("nano").size("xs")
SHORT = {"steps": 2, "batch": 8, "lr_rampup_images": 0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Original:
    """A teacher that this program trained, and its average of width 0.1 at rest."""

    spec: RunSpec
    checkpoint: checkpoint.Checkpoint
    folder: Path

    def images(self) -> np.ndarray:
        """What its run would be judged by."""
        network = load_network(self.checkpoint, self.spec, CPU)
        return generate(self.spec, network, 3, self.spec.evaluation.samples, CPU)[0]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, write_study: Fixture, shards: dict[str, str]) -> Original:
    folder = tmp_path_factory.mktemp("original")
    study = open_study(write_study(folder, teacher={"steps": 3, "lr_rampup_images": 0}))
    spec = expand(study.config, study.family, DATA)[0].spec
    train(spec, folder, LatentReader(Path(shards["source"])), None, study.config.launch, ALONE, lambda: False)
    found = checkpoint.load(checkpoint.path_of(folder / "checkpoints", 3))
    assert found.part("ema-0.1/")["unet.out_gain"].item() != 0  # else every F is zero
    at_rest(folder / "weights", spec.network_config(), averaged_weights(found, 0.1))
    return Original(spec, found, folder / "weights")


def at_rest(folder: Path, config: NetworkConfig, state: dict[str, torch.Tensor], **changes: Any) -> SavedModel:
    facts: dict[str, Any] = {"encoder": ENCODER, **changes}
    return save_model(folder, describe_network(config, get_encoder(facts.pop("encoder")), **facts), state)


def drawn(folder: Path, seed: int = 0, **keys: Any) -> SavedModel:
    """Random weights of a changed nano network at rest, whose F is not zero and follows t and label."""
    facts = {key: keys.pop(key) for key in ("parameterization", "encoder") if key in keys}
    config = replace(NANO, **keys)
    state = First(config, seed).whole().state_dict()
    gains = {name: torch.ones(1) for name in state if name.endswith("_gain")}
    return at_rest(folder, config, {**state, **gains}, **facts)


def starting_from(folder: Path, **changes: Any) -> dict[str, Any]:
    """What a study file says to take a network as it is."""
    return {"teacher": {"weights": str(folder), "steps": 0}, "scd": SHORT, "sct": SHORT, **changes}


def samples(home: Path, steps: int) -> np.ndarray:
    return np.load(home / "samples" / f"steps-{steps}.npz")["images"]


def trainer(homes: Fixture, method: str) -> Trainer:
    """A student's trainer before its first step."""
    config, teacher = load_run(homes.of(method)), load_run(homes.of("teacher")).spec
    found = checkpoint.load(checkpoint.path_of(homes.of("teacher") / "checkpoints", teacher.recipe.steps))
    state = averaged_weights(found, config.spec.recipe.teacher_ema)  # pyright: ignore[reportAttributeAccessIssue]
    return trainer_of(config.spec, config.shards, InMemory(teacher.network_config(), state))


def but_weighting(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("logvar")}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_teacher_taken_as_it_is_makes_the_samples_of_its_run(
    tmp_path: Path, original: Original, write_study: Fixture, homes_of: Fixture
) -> None:
    changes = starting_from(original.folder, ema={"sigma_rel": [0.1, 0.05]}, sampling={"teacher_ema": 0.05})
    homes = homes_of(write_study(tmp_path, methods=["teacher", "scd"], **changes))
    for method in ("teacher", "scd"):
        run(homes.of(method), StopRequest())
    assert np.array_equal(samples(homes.of("teacher"), 3), original.images())
    (path,) = homes.saved("teacher")
    assert path == checkpoint.path_of(homes.of("teacher") / "checkpoints", 0)
    found, weights = checkpoint.load(path), load_model(original.folder).state()
    assert_equal(found.part("model/"), weights)
    for profile in ("0.1", "0.05"):
        assert_equal(averaged_weights(found, float(profile)), weights)
    assert_equal(but_weighting(trainer(homes, "scd").engine.module.state_dict()), but_weighting(weights))
    scores = [json.loads((homes.of(method) / "scores.json").read_text()) for method in ("teacher", "scd")]
    assert [[score["steps"] for score in found["metrics"][0]["scores"]] for found in scores] == [[3], [1, 2]]
    assert build_report(homes.study).exists()


def test_what_was_done_is_not_done_again_and_damage_is_mended(
    tmp_path: Path, original: Original, write_study: Fixture, homes_of: Fixture
) -> None:
    homes = homes_of(write_study(tmp_path, methods=["teacher"], **starting_from(original.folder)))
    run(homes.of("teacher"), StopRequest())
    (path,) = homes.saved("teacher")
    before = checkpoint.load(shutil.copytree(path, tmp_path / path.name))
    written = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    images = samples(homes.of("teacher"), 3)
    homes.rewind("teacher")
    run(homes.of("teacher"), StopRequest())
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == written
    homes.rewind("teacher")
    data = path / "rank-00000.safetensors"
    data.write_bytes(data.read_bytes()[:-8])
    run(homes.of("teacher"), StopRequest())
    mended = checkpoint.load(path)
    assert mended.metadata == before.metadata
    assert_equal(mended.part(""), before.part(""))
    assert path.with_name(path.name + ".damaged").exists()
    assert np.array_equal(samples(homes.of("teacher"), 3), images)


def test_students_of_another_flavour_distil_an_edm2_teacher(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture
) -> None:
    saved = drawn(tmp_path / "edm2", **FLAVOURS["edm2"])
    vsd = {**SHORT, "lr": 0.01, "teacher_ema": 0.1}
    changes = starting_from(saved.folder, scd={**SHORT, "start": "scratch"}, scd_vsd=vsd)
    homes = homes_of(write_study(tmp_path, methods=["teacher", "scd", "scd_vsd"], **changes))
    for method in ("teacher", "scd", "scd_vsd"):
        run(homes.of(method), StopRequest())
    specs = {method: load_run(homes.of(method)).spec for method in ("teacher", "scd", "scd_vsd")}
    assert specs["teacher"].network_config() == saved.config
    assert specs["scd"].network_config() == NANO
    images = generate(specs["teacher"], saved.network(), 3, 100, CPU)[0]
    assert np.array_equal(samples(homes.of("teacher"), 3), images)

    student = trainer(homes, "scd")
    batch = batch_of(student)
    want = SIGMA_DATA * saved.network()(batch.x_t / SIGMA_DATA, batch.t, batch.labels)
    objective = objective_of("scd", specs["scd"].recipe, student.networks["teacher"])
    assert isinstance(objective, Distillation)
    assert torch.equal(objective.dxdt(batch), want)
    assert want.abs().max() > 0
    assert len(homes.metrics("scd")) == 1

    # The fake score is a diffusion model as the teacher, of its flavour, beside a student of the family's.
    fake = checkpoint.load(homes.saved("scd_vsd")[-1]).part("fake/model/")
    assert fake.keys() == saved.state().keys()
    assert fake["unet.emb_fourier.freqs"].equal(saved.state()["unet.emb_fourier.freqs"])


def test_training_goes_on_from_weights_with_a_fresh_weighting(
    tmp_path: Path, original: Original, write_study: Fixture, homes_of: Fixture
) -> None:
    teacher = {"weights": str(original.folder), "steps": 2}
    homes = homes_of(write_study(tmp_path, methods=["teacher"], teacher=teacher))
    config, weights = load_run(homes.of("teacher")), load_model(original.folder).state()
    start = trainer_of(config.spec, config.shards, InMemory(NANO, weights))
    state = start.engine.module.state_dict()
    assert_equal(but_weighting(state), but_weighting(weights))
    assert not torch.equal(state["logvar_linear.weight"], weights["logvar_linear.weight"])
    for _ in range(2):
        start.train_step()
    run(homes.of("teacher"), StopRequest())
    assert_equal(checkpoint.load(homes.saved("teacher")[-1]).part("model/"), start.engine.module.state_dict())
    assert not torch.equal(start.engine.module.state_dict()["unet.out_gain"], weights["unet.out_gain"])


@pytest.mark.parametrize("key", ["weights", "guide"])
def test_a_network_of_edms_f_is_taken_without_conversion(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture, key: str
) -> None:
    """F_trig = -F_edm: a teacher, or what guides one, is that network with its output gain negated."""
    saved = drawn(tmp_path / "edm", parameterization="edm")
    changes: dict[str, Any] = {"teacher": {"steps": 1, key: str(saved.folder)}, "scd": SHORT, "sct": SHORT}
    if key == "guide":
        changes["scd"] = {**SHORT, "guidance": [1, 2]}
        changes["sampling"] = {"student_guidance": {1: 1, 2: 1}}
    homes = homes_of(write_study(tmp_path, **changes))
    config = load_run(homes.of("teacher" if key == "weights" else "scd"))
    found = _at_rest(config.weights, config.spec.weights, ALONE) or _at_rest(config.guide, config.spec.guide, ALONE)
    assert found is not None
    state = saved.state()
    assert state["unet.out_gain"].item() != 0
    assert_equal(found.frozen().state_dict(), {**state, "unet.out_gain": -state["unet.out_gain"]})


Make = Callable[[Path], Any]
REFUSED: dict[str, tuple[Make, list[str]]] = {
    "missing": (
        lambda folder: None,
        ["config.json: no such file: name a folder made by `trigscale release`, `model ema` or `model import-edm2`"],
    ),
    "foreign": (
        lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{}")),
        ["config.json: has format None", "not written by trigscale"],
    ),
    "encoder": (
        lambda folder: drawn(folder, encoder="edm2-sd-vae-v1"),
        ["its encoder is edm2-sd-vae-v1, but data.encoder is fashion-s2d-v1", "use data of its encoder"],
    ),
    "pixels": (
        lambda folder: drawn(folder, encoder="rgb-v1"),
        ["its encoder is rgb-v1, but data.encoder is fashion-s2d-v1"],
    ),
    "resolution": (
        lambda folder: drawn(folder, resolution=16, attention_resolutions=(8,)),
        ["its resolution is 16, but that of the size in family 'nano' is 8: make them equal"],
    ),
    "channels": (lambda folder: drawn(folder, latent_channels=3), ["its latent_channels is 3, but", "is 4"]),
    "classes": (lambda folder: drawn(folder, num_classes=0), ["its num_classes is 0, but", "is 10"]),
    "a student": (lambda folder: drawn(folder, guidance=True), ["its network takes a guidance strength"]),
    "another flavour": (
        lambda folder: drawn(folder, **FLAVOURS["edm2"]),
        [
            "scd.start: teacher, but size 'xs' of family 'nano' is not the network of teacher.weights",
            "(weights / family: time_input 'log_sigma' / 't', time_embedding 'fourier' / 'positional', "
            "modulation_norm 'none' / 'double'): set scd.start to scratch, or choose a family of that network",
        ],
    ),
    "another width": (
        lambda folder: drawn(folder, model_channels=16),
        ["scd.start: teacher, but", "(weights / family: model_channels 16 / 8): set scd.start to scratch"],
    ),
}


def test_a_weaker_network_guides_the_teacher_of_students(
    tmp_path: Path, original: Original, write_study: Fixture, homes_of: Fixture
) -> None:
    """Autoguidance needs no samples without labels; other weights of the guide make other students."""
    guides = [drawn(tmp_path / f"guide-{seed}", seed) for seed in (1, 2)]
    student = {**SHORT, "lr": 0.01, "teacher_ema": 0.1, "guidance": [1, 3]}
    changes = starting_from(original.folder, scd=student, vsd=student)
    changes |= {"methods": ["teacher", "scd", "vsd"], "sampling": {"student_guidance": {1: 2, 2: 2}}}
    changes["teacher"] |= {"guide": str(guides[0].folder)}
    homes = homes_of(write_study(tmp_path, **changes))
    for method in ("teacher", "scd", "vsd"):
        run(homes.of(method), StopRequest())
        assert load_run(homes.of(method)).spec.guide == (None if method == "teacher" else guides[0].sha256)

    config = load_run(homes.of("scd"))
    origin = InMemory(original.spec.network_config(), load_model(original.folder).state())
    guide = InMemory(guides[0].config, guides[0].state())
    trained = Trainer(config.spec, LatentReader(config.shards), origin, config.launch, ALONE, guide=guide)
    batch = batch_of(trained)
    assert batch.guidance is not None
    strong, weak = (one.frozen()(batch.x_t / SIGMA_DATA, batch.t, batch.labels) for one in (origin, guide))
    want = SIGMA_DATA * (weak + batch.guidance[:, None, None, None] * (strong - weak))
    objective = objective_of("scd", config.spec.recipe, trained.networks["teacher"], trained.networks["guide"])
    assert isinstance(objective, Distillation)
    torch.testing.assert_close(objective.dxdt(batch), want)

    changes["teacher"] |= {"guide": str(guides[1].folder)}
    other = open_study(write_study(tmp_path, **changes))
    runs = expand(other.config, other.family, config.spec.data)
    assert {run.spec.method: run.name in homes.runs for run in runs} == {"teacher": True, "scd": False, "vsd": False}


@pytest.mark.parametrize(
    ("keys", "guidance", "said"),
    [
        ({"resolution": 16, "attention_resolutions": (8,)}, [1, 2], "its resolution is 16, but that of the size"),
        ({}, None, "teacher.guide: guides the teacher of students, and none has guidance: set it"),
    ],
)
def test_guides_that_do_not_fit(
    tmp_path: Path, write_study: Fixture, cli: Fixture, keys: dict[str, Any], guidance: Any, said: str
) -> None:
    saved = drawn(tmp_path / "guide", **keys)
    teacher, strengths = {"guide": str(saved.folder)}, {"student_guidance": {1: 2, 2: 2}}
    path = write_study(tmp_path, teacher=teacher, scd={"guidance": guidance}, sampling=strengths)
    result = cli("study", "plan", path)
    assert result.code == 2
    assert said in result.err


def test_vsd_starts_from_a_teacher_of_its_own_network_alone(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    drawn(tmp_path / "weights", **FLAVOURS["edm2"])
    vsd = {**SHORT, "lr": 0.01, "teacher_ema": 0.1}
    changes = starting_from(tmp_path / "weights", scd={**SHORT, "start": "scratch"}, vsd=vsd)
    result = cli("study", "plan", write_study(tmp_path, methods=["teacher", "scd", "vsd"], **changes))
    assert result.code == 2
    assert "vsd: starts from the teacher, but size 'xs' of family 'nano' is not the network of" in result.err
    assert "take scd_vsd, whose sCD may start from scratch" in result.err


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_weights_that_do_not_fit(tmp_path: Path, write_study: Fixture, cli: Fixture, command: str, case: str) -> None:
    make, parts = REFUSED[case]
    make(tmp_path / "weights")
    result = cli("study", command, write_study(tmp_path, **starting_from(tmp_path / "weights")))
    assert (result.code, result.out) == (2, "")
    assert result.err.count("error:") == 1
    for part in [str(tmp_path / "weights"), *parts]:
        assert part in result.err
    assert not (tmp_path / "runs").exists()


def damage(folder: Path) -> None:
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_weights_are_refused_before_anything_is_written(
    tmp_path: Path, original: Original, write_study: Fixture, cli: Fixture
) -> None:
    shutil.copytree(original.folder, tmp_path / "weights")
    damage(tmp_path / "weights")
    path = write_study(tmp_path, **starting_from(tmp_path / "weights"))
    result = cli("study", "run", path)
    assert result.code == 2
    assert f"{tmp_path / 'weights' / WEIGHTS}: its content does not match the hash in config.json" in result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage, "its content does not match the hash"),
        (shutil.rmtree, "no such file"),
        (lambda folder: (shutil.rmtree(folder), drawn(folder, seed=1)), "holds other weights than the run was planned"),
    ],
    ids=["damaged", "gone", "another"],
)
def test_weights_that_changed_before_the_run_began(
    tmp_path: Path,
    write_study: Fixture,
    homes_of: Fixture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path], Any],
    reason: str,
) -> None:
    drawn(tmp_path / "weights")
    homes = homes_of(write_study(tmp_path, **starting_from(tmp_path / "weights")))
    change(tmp_path / "weights")
    monkeypatch.setattr(sys, "argv", ["worker", str(homes.of("teacher"))])
    assert main() == 2
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert str(tmp_path / "weights") in error
    assert reason in error
    assert homes.saved("teacher") == []


def names(path: Path) -> list[str]:
    study = open_study(path)
    return [found.name for found in expand(study.config, study.family, DATA)]


def test_weights_count_by_their_content(tmp_path: Path, write_study: Fixture, homes_of: Fixture) -> None:
    first, other = drawn(tmp_path / "first"), drawn(tmp_path / "other", seed=1)
    shutil.copytree(first.folder, tmp_path / "moved")
    runs = {
        name: names(write_study(tmp_path, **starting_from(tmp_path / name))) for name in ("first", "moved", "other")
    }
    assert runs["first"] == runs["moved"]
    assert set(runs["first"]).isdisjoint(runs["other"])  # students with their teachers
    assert first.sha256 != other.sha256
    trained_on = names(write_study(tmp_path, **starting_from(first.folder, teacher={"weights": str(first.folder)})))
    random = names(write_study(tmp_path, scd=SHORT, sct=SHORT))
    assert len({*runs["first"], *trained_on, *random}) == 9
    homes = homes_of(write_study(tmp_path, **starting_from(tmp_path / "moved")))
    config = load_run(homes.of("teacher"))
    assert (config.weights, config.spec.weights) == (tmp_path / "moved", first.sha256)
    assert str(tmp_path / "moved") not in config.spec.model_dump_json()


def test_weights_of_one_size(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    drawn(tmp_path / "weights")
    by_size = {"xs": {"teacher": {"weights": str(tmp_path / "weights"), "steps": 0}}}
    before = names(write_study(tmp_path, sizes=["xs", "s"]))
    path = write_study(tmp_path, sizes=["xs", "s"], by_size=by_size)
    assert [a == b for a, b in zip(before, names(path), strict=True)] == [False] * 3 + [True] * 3
    runs = json.loads(cli("study", "plan", path, "--json").out)["runs"]
    teachers = [found for found in runs if found["run"].startswith("teacher")]
    assert [found["train_flops"] == 0 for found in teachers] == [True, False]
    assert all(found["evaluation_flops"] > 0 for found in teachers)


def test_guidance_asks_how_the_weights_were_trained(
    tmp_path: Path, original: Original, write_study: Fixture, cli: Fixture
) -> None:
    path = write_study(tmp_path, **starting_from(original.folder))
    result = cli("study", "plan", path, "sampling.teacher_guidance=1.5")
    assert result.code == 2
    assert "teacher.label_dropout: is 0, but" in result.err
    assert "set it if teacher.weights were trained so" in result.err
