"""What starts from a release: a distillation is that from the checkpoint, a student goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.release import CONFIG
from scaling.release.make import Options, release
from scaling.run.spec import load_run
from scaling.training.checkpoints import checkpoint
from scaling.training.start import first_networks
from scaling.weights.folder import load_model
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from tests.training.checkpoint_states import ALONE

Fixture = Any  # conftest.py says what it is


def test_a_distillation_has_the_losses_of_one_from_the_checkpoint(
    finished: Fixture, released: dict[str, Path], tmp_path: Path, write_study: Fixture, homes_of: Fixture
) -> None:
    """Every logged number, and the weights at the end, to the bit; its own release says what it was made from."""
    teacher = {"weights": str(released["teacher"]), "steps": 0}
    homes = homes_of(write_study(tmp_path, methods=["teacher", "scd"], teacher=teacher))
    for method in ("teacher", "scd"):
        run(homes.of(method), StopRequest())
    assert homes.metrics("scd") == finished.metrics("scd")
    assert len(homes.metrics("scd")) > 3
    ends = [checkpoint.load(each.saved("scd")[-1]).part("") for each in (homes, finished)]
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
    made = release(homes.of("scd"), tmp_path / "to", Options()).folder
    parent = load_model(made).description.parent
    assert parent is not None
    assert (parent.sha256, parent.licence) == (load_model(released["teacher"]).sha256, "CC-BY-4.0")
    assert load_model(made).description.licence == "CC-BY-4.0"
    assert "It was made from weights (SHA-256" in (made / "README.md").read_text()


def test_a_student_goes_on_and_is_distilled_further(
    finished: Fixture, released: dict[str, Path], tmp_path: Path, write_study: Fixture, homes_of: Fixture
) -> None:
    """It starts as the release is, its weighting too, and with an input for guidance it starts as the same function."""
    homes = homes_of(write_study(tmp_path, methods=["teacher", "scd"], scd={"weights": str(released["scd"])}))
    config, state = load_run(homes.of("scd")), load_model(released["scd"]).state()
    assert config.spec.weights == load_model(released["scd"]).sha256
    assert str(tmp_path) not in config.spec.model_dump_json()
    for method in ("teacher", "scd"):
        run(homes.of(method), StopRequest())
    losses = [[line["loss"] for line in each.metrics("scd")] for each in (homes, finished)]
    assert losses[0] != losses[1]
    from scaling.work import stages

    origin, start = stages._origin(config, ALONE), stages._start(config, ALONE)
    (begin,) = first_networks(config.spec, origin, start).values()
    first = begin.whole().state_dict()
    assert all(torch.equal(first[name], value) for name, value in state.items())
    teacher = checkpoint.load(homes.saved("teacher")[-1]).part("ema-0.1/")
    assert origin is not None
    distilled = origin.frozen().state_dict()
    assert all(torch.equal(distilled[name], value) for name, value in teacher.items())


REFUSED = {
    "a teacher": ({"scd": {"weights": "teacher"}}, "scd.weights: ", "holds a teacher"),
    "a student": ({"teacher": {"weights": "scd", "steps": 0}}, "teacher.weights: ", "whose F is no velocity"),
    "both": ({"scd": {"weights": "scd", "start": "scratch"}}, "scd: start: scratch, but weights names", ""),
    "none": ({"sct": {"weights": "none"}}, "sct.weights: ", f"{CONFIG}: no such file"),
    "another size": (
        {"sizes": ["s"], "scd": {"weights": "scd"}},
        "scd.weights: ",
        "is another network than the size's",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_start_is_refused(
    released: dict[str, Path], tmp_path: Path, write_study: Fixture, cli: Fixture, case: str
) -> None:
    changes, key, said = REFUSED[case]
    for section in changes.values():
        if isinstance(section, dict) and "weights" in section:
            section["weights"] = str(released.get(section["weights"], tmp_path / "none"))
    result = cli("study", "plan", write_study(tmp_path, **changes))
    assert (result.code, result.out) == (2, "")
    assert key in result.err
    assert said in result.err
