"""Several ranks extract what one does, and one rank's failure is the failure of all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.manifest import DataError
from scaling.evaluation import extract as module
from scaling.evaluation.extract import extract, moments_of
from scaling.evaluation.frechet import Reference
from scaling.evaluation.images.sets import open_images
from scaling.evaluation.spaces.small import fashion_space
from scaling.evaluation.spaces.space import ArrayImages
from scaling.run.home import RunHome
from scaling.training.sharding.world import joined
from scaling.work import judging
from scaling.work.evaluating import Asked, evaluate_images, parse_metrics
from tests.ranks import run_ranks


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(330, 16, 16, 1), dtype=np.uint8)


def extracted(fails: int | None) -> np.ndarray:
    """The features that a rank gets; rank `fails` meets an image that is none."""
    module.BATCH = 50
    with joined(torch.device("cpu")) as world:
        shown = images()[..., 0] if world.rank == fails else images()
        return extract(fashion_space("cpu"), ArrayImages(shown), world=world).features


def test_two_ranks_extract_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 50)
    alone = extract(fashion_space("cpu"), ArrayImages(images())).features
    first, second = run_ranks(2, extracted, None)
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, alone)
    reference = Reference.from_features(alone[:200])
    assert reference.distance(first) == reference.distance(alone)


def test_one_ranks_failure_fails_all() -> None:
    with pytest.raises(AssertionError, match="rank 1: "):
        run_ranks(2, extracted, 1)


@dataclass(frozen=True)
class Dear(ArrayImages):
    """Images of which a rank makes its own alone; it notes which."""

    def share(self, rank: int, size: int) -> ArrayImages:
        return ArrayImages(np.array_split(self.array, size)[rank])


def moments(spoiled: int | None, dear: bool) -> Any:
    """Mean and covariance as a rank has them, or the error that it raised; one image of the `spoiled` is no number."""
    module.BATCH = 50
    space = fashion_space("cpu")
    made = space.outputs

    def outputs(batch: np.ndarray) -> Any:
        found = made(batch)
        if spoiled is not None:
            found.features[(batch == images()[spoiled]).all((1, 2, 3))] = np.nan
        return found

    object.__setattr__(space, "outputs", outputs)
    with joined(torch.device("cpu")) as world:
        try:
            return moments_of(space, (Dear if dear else ArrayImages)(images()), world).statistics()
        except DataError as error:
            return str(error)


@pytest.mark.parametrize("dear", [False, True])
def test_ranks_sum_the_moments_of_one(monkeypatch: pytest.MonkeyPatch, dear: bool) -> None:
    monkeypatch.setattr(module, "BATCH", 50)
    alone = Reference(*moments_of(fashion_space("cpu"), ArrayImages(images())).statistics())
    other = Reference(np.zeros_like(alone.mean), np.eye(len(alone.mean)))
    found = run_ranks(3, moments, None, dear)
    assert all((mean == found[0][0]).all() and (squares == found[0][1]).all() for mean, squares in found)
    assert other.distance_to(*found[0]) == pytest.approx(other.distance_to(alone.mean, alone.covariance), rel=1e-9)


@pytest.mark.parametrize(("spoiled", "dear", "rank"), [(60, False, 1), (120, True, 0)])
def test_an_error_of_one_rank_is_told_by_all(spoiled: int, dear: bool, rank: int) -> None:
    told = f"1 of 50 samples have non-finite features, the first is number {spoiled}: "
    found = run_ranks(2, moments, spoiled, dear)
    assert found[rank].startswith(told)
    assert found[1 - rank].startswith(f"rank {rank}: {told}")


def judged(folder: Path) -> dict[str, Any] | None:
    """What `evaluate` finds of the images in a folder, as this rank has it."""
    module.BATCH = 50
    asked = Asked(folder / "real.npz", parse_metrics("fd-fashion,precision-fashion"), folder / "held.npz")
    with joined(torch.device("cpu")) as world:
        return evaluate_images(folder / "made.npz", open_images(folder / "made.npz"), asked, world)


def test_ranks_judge_as_one(tmp_path: Path) -> None:
    """Images, reference and floors; rank 0 has the answer."""
    for seed, name in enumerate(("made", "real", "held")):
        drawn = np.random.default_rng(seed).integers(256, size=(330, 16, 16, 1), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=drawn)
    whole, nothing = run_ranks(2, judged, tmp_path)
    (alone,) = run_ranks(1, judged, tmp_path)
    assert nothing is None
    for ours, one in zip(whole["metrics"], alone["metrics"], strict=True):
        assert (ours["value"], ours["floor"]) == pytest.approx((one["value"], one["floor"]), rel=1e-9)
    assert whole["n"] == 330


@pytest.mark.nightly
def test_the_command_is_shared_and_ends_with_one_ranks_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "made.npz", images=images())

    def evaluated(reference: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-P", "-m", "scaling", "evaluate", "made.npz", "--metrics", "fd-fashion", "--json")
        asked = (*command, "--reference", reference, "--devices", "2")
        return subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert json.loads(evaluated("made.npz").stdout)["metrics"][0]["value"] < 1e-6
    failed = evaluated("none.npz")
    assert failed.returncode == 2
    assert "none.npz" in failed.stderr


def test_no_rank_judges_a_set_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 puts the parts together, and the others wait for that too."""
    events: list[str] = []
    target = SimpleNamespace(missing=lambda: np.arange(2), save=lambda: events.append("part"))
    target.add, target.finish = lambda *_: None, lambda: events.append("whole")
    request = SimpleNamespace(seeds=np.arange(2), labels=np.arange(2))
    stand_ins = {"sampler_steps": {1: 1}, "final_network": None, "draw_of": None, "request_of": request, "File": target}
    for name, value in {**stand_ins, "draw_images": []}.items():
        monkeypatch.setattr(judging, name, lambda *_, value=value, **__: value)
    spec = SimpleNamespace(recipe=SimpleNamespace(steps=1), evaluation=SimpleNamespace(metrics=(), repeats=1))
    world = SimpleNamespace(leads=True, size=2, rank=0, device=None, told=lambda _: [(1, 0)])
    world.barrier = lambda: events.append("all")
    config: Any = SimpleNamespace(spec=spec, vae=None)
    judging.draw_samples(config, RunHome(tmp_path), world, lambda: False)  # pyright: ignore[reportArgumentType]
    assert events == ["all", "part", "all", "whole", "all"]
