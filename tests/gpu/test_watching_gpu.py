"""What is measured of a GPU while a run trains: its memory's peak, a trace with its kernels, a memory snapshot."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from scaling.training.observe.metrics import take_peak_memory

MEBIBYTES = 1 << 20


def test_the_memory_is_its_peak_since_the_line_before(device: torch.device) -> None:
    kept = torch.zeros(1, device=device)
    take_peak_memory()
    big = torch.zeros(MEBIBYTES, device=device)
    del big
    assert take_peak_memory() >= 4 * MEBIBYTES
    assert take_peak_memory() == torch.cuda.memory_allocated()
    del kept


def test_a_window_holds_kernels_and_allocations(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("pydantic", reason="the configuration needs it")
    from scaling.config.sections import Launch
    from scaling.training.observe.profile import ProfileWindow

    window = ProfileWindow(Launch(profile=(1, 2), memory_snapshot=True), tmp_path, device, 0)
    for step in (1, 2, 3):
        with window.around(step):
            torch.mm(*torch.ones(2, 64, 64, device=device))
    found = sorted(path.name for path in (tmp_path / "profile").iterdir())
    assert found == ["memory-rank-0.pickle", "rank-0-steps-1-2.json.gz", "rank-0-steps-1-2.txt"]
    trace = json.loads(gzip.decompress((tmp_path / "profile" / found[1]).read_bytes()))
    assert any(event.get("cat") == "kernel" for event in trace["traceEvents"])
    assert (tmp_path / "profile" / found[0]).stat().st_size > 1000
