"""A study as plain values, its runs, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.cli.main import app, run_cli
from scaling.config.families import load_family
from scaling.config.study import StudyConfig
from scaling.config.validation import validate
from scaling.run.spec import PlannedRun, RunData
from scaling.study.expand import expand

STUDENT = {"steps": 20, "batch": 24, "lr": 0.01, "teacher_ema": 0.1}
STUDY: dict[str, Any] = {
    "name": "planned",
    "family": "nano",
    "sizes": ["xs", "s"],
    "methods": ["teacher", "scd", "sct", "vsd", "scd_vsd"],
    "teacher": {"steps": 30, "batch": 24, "lr": 0.04, "label_dropout": 0.1},
    "scd": {**STUDENT, "guidance": [1, 2]},
    "sct": STUDENT,
    "vsd": {**STUDENT, "guidance": [1, 2]},
    "scd_vsd": {**STUDENT, "guidance": [1, 2]},
    "ema": {"sigma_rel": [0.05, 0.1]},
    "sampling": {
        "teacher_steps": 3,
        "teacher_guidance": 1.5,
        "teacher_ema": 0.1,
        "student_ema": 0.1,
        "student_guidance": {1: 1.5, 2: 1.4},
    },
    "evaluation": {"samples": 100, "repeats": 3},
}
MakeStudy = Callable[..., tuple[StudyConfig, list[PlannedRun]]]
Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def make_study() -> MakeStudy:
    """The configuration and runs of a study on nano with every method, with other values of its top keys."""

    def making(**changes: Any) -> tuple[StudyConfig, list[PlannedRun]]:
        config = validate(StudyConfig, {**STUDY, **changes}, "study")
        data = RunData(content_sha256="a" * 64, held_out_sha256="b" * 64, encoder=config.data.encoder)
        return config, expand(config, load_family(config.family), data)

    return making


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[Any], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """`trigscale study plan` on a terminal of 120 columns: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def planning(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_cli(lambda: app(["study", "plan", *map(str, arguments)]))
        out, err = capfd.readouterr()
        return code, out, err

    return planning
