"""What a user reads and copies: tables that fit any terminal, messages that say what to do, JSON of all that prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from scaling.config.study import StudyConfig
from scaling.config.validation import describe

ROOT = Path(__file__).parents[2]
Fixture = Any  # conftest.py says what it is


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_that_is_copied_is_cut_or_broken(cli: Fixture, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """On a terminal of any width: every key of a study stands in one piece, and every number of a plan."""
    study = ROOT / "configs" / "study" / "fashion-ci.yaml"
    piped = cli("study", "plan", study).out
    cells = {cell for line in piped.splitlines() for cell in line.split("  ") if any(map(str.isdigit, cell))}
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = [line.strip() for line in cli("study", "keys").out.splitlines()]
    assert {key for key, *_ in describe(StudyConfig)} <= {line.split("  ")[0] for line in lines}
    plan = cli("study", "plan", study).out
    assert [cell for cell in cells if cell.strip() not in plan] == []


def test_colours_are_not_printed_as_words(cli: Fixture, homes: Fixture) -> None:
    path = homes.study.parents[1] / "study.yaml"
    out = cli("study", "status", path).out
    assert "waiting" in out
    assert "[" not in out
