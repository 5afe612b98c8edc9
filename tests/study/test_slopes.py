"""The two terms of df/dt of a teacher: their sum is the derivative along its trajectory; what a study shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.arrays import load_arrays
from models.trigflow import SIGMA_DATA
from scaling.report.build import build_report
from scaling.run.home import StudyFolder
from scaling.work.slopes import TIMES, terms
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from tests.closed_forms import Gaussian, Known

Fixture = Any  # conftest.py says what it is


@pytest.mark.parametrize("t", [0.3, 1.2])
def test_of_an_exact_teacher_of_gaussians_both_are_known(t: float) -> None:
    """f = cos x - sin v = a(t) x with a = cos - sin V'/(2V): the terms are |a| ||dx/dt|| and |a'| ||x||."""
    data = Gaussian(0.3)
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 8, 1, 2, 2, generator=generator, dtype=torch.float64) * 0.5

    def slope(t: torch.Tensor) -> torch.Tensor:
        ratio = t.cos() * t.sin() * (SIGMA_DATA**2 - data.s**2) / data.variance(t)
        return t.cos() - t.sin() * ratio

    time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    (change,) = torch.autograd.grad(slope(time), time)
    x = time.detach().cos() * x0 + time.detach().sin() * z
    v = data.velocity(x, time.detach().expand(8))
    want = [abs(slope(time).item()) * v.flatten(1).norm(dim=1).mean(), change.abs() * x.flatten(1).norm(dim=1).mean()]
    got = terms(Known(data.teacher()), x0, z, torch.full((8,), -1), t)  # type: ignore[arg-type]
    assert got == pytest.approx([float(one) for one in want], rel=1e-9)


def test_a_study_shows_them(
    tmp_path: Path, write_study: Fixture, homes_of: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: dict[str, list[Any]] = {"curves": [], "overview": [], "training": [], "samples": []}
    monkeypatch.setattr("scaling.report.build.draw_pictures", lambda *_: others)
    monkeypatch.setattr("scaling.work.slopes.TIMES", TIMES[-3:])
    sizes = ["t-positional", "log-fourier16"]
    path = write_study(
        tmp_path,
        family="stability",
        sizes=sizes,
        methods=["teacher"],
        teacher={"steps": 3, "dropout": 0},
        evaluation={"metric": "none", "slopes": True},
    )
    folder = StudyFolder(homes_of(path).study)
    found = {}
    for home in folder.homes():
        run(home.path, StopRequest())
        times, space, time = load_arrays(home.slopes, "times", "space", "time")
        assert len(times) == 3
        assert (space > 0).all()
        assert np.isfinite(time).all()
        found[home.name.removeprefix("teacher-").rpartition("-")[0]] = time
    assert [*found] == sizes
    build_report(folder.path)
    assert "How fast f changes, along x and along t" in (folder.report / "index.html").read_text()
