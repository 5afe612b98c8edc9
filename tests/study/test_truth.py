"""The metric `truth`: exact networks have no error, and the parts of a run's error are what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.arrays import load_arrays
from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from models.network import T_MAX
from models.trigflow import SIGMA_DATA
from scaling.config.recipes import ConsistencyRecipe
from scaling.data import sources
from scaling.evaluation import truth as truths
from scaling.evaluation.mixture import MIXTURE_SHAPE, known_mixture
from scaling.evaluation.truth import FLOOR, TIMES, Truth, find_truth, relative_error
from scaling.methods.ends import segment_end
from scaling.report.build import build_report
from scaling.run.home import StudyFolder
from scaling.sampling.samplers import teacher_flow
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from scaling.work.truth import _led, _sampled
from tests.closed_forms import of_flow
from tests.training.small import SPEC

Fixture = Any  # conftest.py says what it is
CPU = torch.device("cpu")
N = 4


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truths, "POINTS", 2)
        found = find_truth(N)
    path = tmp_path_factory.mktemp("truth") / "truth.npz"
    path.write_bytes(found.to_bytes())
    read = Truth.load(path)
    assert torch.equal(read.leads, found.leads)
    return read


def made_up(samples: int) -> Truth:
    """Random numbers in the shapes of what is true."""
    shapes = [(samples, 256), (samples, 256), *[(len(TIMES), 2, 256)] * 3]
    generator = torch.Generator().manual_seed(0)
    return Truth(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def exact(kind: str) -> Any:
    """A network that computes the exact F of the mixture: of a teacher, of students of three kinds."""
    mixture = known_mixture()

    def flat(fn: Any, x: Tensor, *times: Tensor) -> Tensor:
        return fn(x.double().flatten(1), *(t.double() for t in times)).reshape(x.shape)

    def net(x: Tensor, t: Tensor, labels: Tensor, *, to: Tensor | None = None, **_: Any) -> Tensor:
        if kind == "teacher":
            return (flat(mixture.velocity, SIGMA_DATA * x, t) / SIGMA_DATA).float()
        ends = {"student": 0 * t, "segments": segment_end(t, 2), "flow_map": to}[kind]
        assert ends is not None
        return of_flow(lambda x, t, s: flat(mixture.flow, x, t, s), lambda _: ends.double())(
            x.double(), t.double()
        ).float()

    return net


def spec_of(kind: str) -> Any:
    changes = {"segments": {"segments": 2}, "flow_map": {"flow_map": True}}
    recipe = ConsistencyRecipe.model_validate({"steps": 1, "lr": 0.1, **changes.get(kind, {})})
    network = {**SPEC.network, "num_classes": 0, **({"second_time": True} if kind == "flow_map" else {})}
    update: dict[str, Any] = {
        "network": network,
        "sampling": SPEC.sampling.model_copy(update={"teacher_steps": 40, "batch": N}),
    }
    return SPEC.model_copy(update=update | ({} if kind == "teacher" else {"method": "sct", "recipe": recipe}))


@pytest.mark.parametrize("kind", ["teacher", "student", "segments", "flow_map"])
def test_an_exact_network_draws_the_true_samples(truth: Truth, kind: str) -> None:
    """A student to the rounding of float32, a teacher to what Heun's 40 steps leave."""
    every = {"teacher": (40,), "student": (1, 2), "segments": (2,), "flow_map": (1, 2)}[kind]
    for steps in every:
        value, error = _sampled(spec_of(kind), exact(kind), steps, truth, CPU)
        assert value < (0.05 if kind == "teacher" else 1e-4)
        assert error < value
    zero, _ = _sampled(spec_of(kind), lambda x, *_, **__: 0 * x, every[-1], truth, CPU)
    assert zero > 0.5


@pytest.mark.parametrize("kind", ["student", "segments", "flow_map"])
def test_an_exact_network_leads_all_points_where_the_flow_does(truth: Truth, kind: str) -> None:
    for place in (1, len(TIMES) - 1):
        points = truth.points[place].float().reshape(-1, *MIXTURE_SHAPE)
        found = _led(spec_of(kind), exact(kind), points, TIMES[place])
        assert relative_error(found.flatten(1), truth.leads[place])[0] < 1e-4


def test_heuns_method_is_the_flow_of_a_teacher_from_any_time(truth: Truth) -> None:
    net, place = exact("teacher"), 3
    points = truth.points[place].reshape(-1, *MIXTURE_SHAPE)
    labels = torch.full((len(points),), -1)
    errors = [
        relative_error(
            teacher_flow(lambda x, t: net(x, t, labels), points, TIMES[place], n).flatten(1), truth.leads[place]
        )[0]
        for n in (8, 16, 32)
    ]
    assert errors[0] > 2.5 * errors[1] > 6 * errors[2]
    assert errors[2] < 0.02


def test_errors_are_relative_to_the_deviation_of_the_data() -> None:
    true = torch.zeros(1000, 256, dtype=torch.float64)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = relative_error(0.1 * SIGMA_DATA * noise, true)
    assert value == pytest.approx(0.1, rel=0.01)
    assert 0 < error < 0.001
    assert TIMES[-1] == T_MAX
    assert FLOOR == 1e-8


def test_its_data_are_draws_of_the_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MIXTURE_SAMPLES", {"train": 3000, "test": 100})
    encoder = get_encoder("fashion-s2d-v1")
    reader = LatentReader(sources.pack_mixture("train", encoder, tmp_path))
    x0 = encoder.normalize(torch.from_numpy(reader.read(np.arange(3000))[0].astype(np.float32)))
    assert x0.square().mean().item() == pytest.approx(SIGMA_DATA**2, rel=0.05)
    means = known_mixture().means.float()
    nearest = torch.cdist(x0.flatten(1), means).argmin(1).bincount(minlength=len(means)) / 3000
    assert (nearest - known_mixture().weights).abs().max() < 0.1


def test_a_study_of_the_truth(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture, cli: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, runs and report; what is true is made up here, for it takes seconds to find."""
    monkeypatch.setattr(sources, "MIXTURE_SAMPLES", {"train": 200, "test": 100})
    monkeypatch.setattr("scaling.data.reference.find_truth", made_up)
    monkeypatch.setattr("scaling.work.truth.HEUN_STEPS", 2)
    others: dict[str, list[Any]] = {"curves": [], "overview": [], "training": [], "samples": []}
    monkeypatch.setattr("scaling.report.build.draw_pictures", lambda *_: others)  # tests/report draws
    few = {"steps": 2, "dropout": 0}
    path = write_study(
        tmp_path,
        family="mixture",
        methods=["teacher", "scd"],
        data={"source": "mixture", "held_out": None},
        teacher=few,
        scd=few,
        variants={"m2": {"of": "scd", "segments": 2}},
        evaluation={"metric": "truth", "samples": 100},
    )
    homes = homes_of(path)
    folder = StudyFolder(homes.study)
    for home in folder.homes():
        run(home.path, StopRequest())
    build_report(folder.path)
    errors = {
        home.name.partition("-")[0]: load_arrays(home.truth, "velocity", "to_truth", "to_teacher")
        for home in folder.homes()
    }
    for name, (velocity, to_truth, to_teacher) in errors.items():
        assert np.isfinite(to_truth).all()
        assert np.isfinite(velocity).all() == (name == "teacher")
        assert np.isfinite(to_teacher).all() == (name != "teacher")
    page = (folder.report / "index.html").read_text()
    assert "Errors to the truth, and what they are made of" in page
    assert "Fréchet distance between" not in page
    assert (folder.report / "truth-time.png").exists()
    for overrides, part in (
        (["data.source=fashion"], "evaluation.metric: truth needs data whose flow is known"),
        (["scd.teacher_ema=0.05", "ema.sigma_rel=[0.05, 0.1]"], "scd.teacher_ema: is 0.05, but metric truth compares"),
        (["data.encoder=grey-v1"], "fashion-s2d-v1 alone shows the mixture's latents"),
    ):
        refused = cli("study", "plan", path, *overrides)
        assert refused.code == 2
        assert part in refused.err
