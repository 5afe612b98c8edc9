"""A study whose runs are spread over several processes, from the command line to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaling.run.metrics import read_metrics

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


@pytest.mark.slow
def test_a_study_on_two_devices_ends_as_on_one(
    tmp_path: Path, finished: Fixture, write_study: Fixture, spawn: Fixture
) -> None:
    """The same losses to rounding, which their first steps are compared by: training amplifies it."""
    launch = {"devices": 2, "strategy": "fsdp2", "microbatch": 4, "workers": 1}
    study = {"methods": ["teacher"], "launch": launch}
    result = spawn("scaling", "study", "run", write_study(tmp_path, **study)).wait()
    assert result.code == 0, result.err
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").exists()
    (home,) = (tmp_path / "runs" / "tiny").glob("teacher-*")
    assert (home / "scores.json").exists()
    assert {path.name for path in home.glob("checkpoints/step-*/rank-*")} == {
        "rank-00000.safetensors",
        "rank-00001.safetensors",
    }
    ours, wanted = (read_metrics(each / "metrics.jsonl").lines[0] for each in (home, finished.of("teacher")))
    assert home.name == finished.of("teacher").name
    assert ours["step"] == wanted["step"]
    assert ours["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
