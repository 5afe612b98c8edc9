"""Faults planted in the kernels: the judge sees each of them, and passes the source as it is on the same cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kernels.faults import CASES, FAULTS, Fault, plant
from tests.kernels.judge import Path as Functions
from tests.kernels.judge import judge_backward, judge_forward

PLACES = sorted({(fault.path, fault.case, fault.backward) for fault in FAULTS})


def found(path: Functions, name: str, backward: bool) -> dict[str, float]:
    """The judge's ratios in float16."""
    case = CASES[name].draw(torch.float16, torch.device("cpu"))
    return judge_backward(path, case, ("both",)) if backward else judge_forward(path, case)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.name}")
def test_a_planted_fault_is_seen(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ratio is above 1."""
    ratios = found(plant(fault, fault.path, tmp_path, monkeypatch), fault.case, fault.backward)
    assert max(ratios.values()) > 1


@pytest.mark.parametrize(("path", "name", "backward"), PLACES)
def test_the_source_as_it_is_passes(
    path: str, name: str, backward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cases through the same copying."""
    ratios = found(plant(None, path, tmp_path, monkeypatch), name, backward)
    assert max(ratios.values()) <= 1, ratios


def test_a_fault_that_no_longer_fits_the_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replacement that replaces nothing would test nothing."""
    fault = Fault("chunked", "gone", "no such text", "")
    with pytest.raises(ValueError, match="stands 0 times"):
        plant(fault, "chunked", tmp_path, monkeypatch)
