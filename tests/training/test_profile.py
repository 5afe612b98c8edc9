"""The window of steps under the profiler: what it leaves, also after a restart, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.cli.main import app, run_cli
from scaling.config.families import CONFIGS
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.run.metrics import read_metrics
from scaling.study.checks import check_launch
from scaling.study.open import open_study
from scaling.training.observe import profile
from scaling.training.observe.profile import ProfileWindow
from tests.training.watched import CPU, STEPS, noise_shards, run, spec_of

WINDOW = Launch(profile=(2, 4))


def multiply(window: ProfileWindow, steps: range) -> None:
    """Steps that each multiply two matrices."""
    for step in steps:
        with window.around(step):
            torch.mm(torch.ones(4, 4), torch.ones(4, 4))


def names(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() or path.name.startswith("."))


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def count(path: Path, name: str) -> int:
    return sum(event.get("name") == name for event in events(path))


def test_the_steps_of_the_window_are_recorded_and_no_others(tmp_path: Path) -> None:
    window = ProfileWindow(WINDOW, tmp_path, CPU, 0)
    multiply(window, range(1, 4))
    assert names(tmp_path) == []
    multiply(window, range(4, 7))
    assert names(tmp_path) == ["rank-0-steps-2-4.json.gz", "rank-0-steps-2-4.txt"]
    trace = tmp_path / "profile" / "rank-0-steps-2-4.json.gz"
    assert count(trace, "aten::mm") == 3
    steps = {event["name"] for event in events(trace) if event.get("name", "").startswith("step ")}
    assert steps == {"step 2", "step 3", "step 4"}
    row = next(line for line in trace.with_name("rank-0-steps-2-4.txt").read_text().splitlines() if "aten::mm" in line)
    assert row.split()[-1] == "3"  # the number of calls
    window.close()
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(("first", "name"), [(3, "rank-0-steps-3-4"), (4, "rank-0-steps-4-4"), (5, None)])
def test_a_restart_records_what_is_left_of_the_window(tmp_path: Path, first: int, name: str | None) -> None:
    window = ProfileWindow(WINDOW, tmp_path, CPU, 0)
    multiply(window, range(first, 7))
    window.close()
    assert names(tmp_path) == ([] if name is None else [f"{name}.json.gz", f"{name}.txt"])


def test_a_window_that_training_ends_in_is_written_on_closing(tmp_path: Path) -> None:
    window = ProfileWindow(WINDOW, tmp_path, CPU, 0)
    multiply(window, range(1, 4))
    window.close()
    assert names(tmp_path) == ["rank-0-steps-2-3.json.gz", "rank-0-steps-2-3.txt"]


def test_no_window_and_another_rank_leave_nothing(tmp_path: Path) -> None:
    for launch, rank in ((Launch(), 0), (WINDOW, 1)):
        multiply(ProfileWindow(launch, tmp_path, CPU, rank), range(1, 7))
    assert names(tmp_path) == []


def test_a_trace_that_cannot_be_written_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(profile, "write_bytes_atomic", full)
    window = ProfileWindow(WINDOW, tmp_path, CPU, 0)
    with pytest.raises(OSError, match=r"No space left on device: .*rank-0-steps-2-4.json.gz"):
        multiply(window, range(1, 5))
    assert names(tmp_path) == []


def test_a_memory_snapshot_is_of_every_rank_and_ends_with_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a recorder in place of a GPU's; tests/gpu has it with a GPU."""
    asked: list[object] = []

    def dump(path: str) -> None:
        asked.append("dump")
        Path(path).write_bytes(b"snapshot")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: asked.append(device))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: asked.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    gpu = torch.device("cuda", 1)
    window = ProfileWindow(WINDOW.model_copy(update={"memory_snapshot": True}), tmp_path, gpu, 1)
    multiply(window, range(1, 7))
    assert asked == [{"max_entries": profile.EVENTS}, gpu, "dump", {"enabled": None}]
    assert names(tmp_path) == ["memory-rank-1.pickle"]
    assert (tmp_path / "profile" / "memory-rank-1.pickle").read_bytes() == b"snapshot"


REFUSED = [
    (["launch.profile=[5,3]"], r"launch.profile: \[5, 3\] ends before it starts: write \[first step, last step\]"),
    (
        ["launch.profile=[900,1001]"],
        r"launch.profile: \[900, 1001\] ends after the last step of every run, 1000 at most",
    ),
    (["launch.memory_snapshot=true"], r"launch.memory_snapshot: true, but launch.profile names no steps"),
    (["launch.memory_snapshot=true", "launch.profile=[1,2]"], r"launch.memory_snapshot: .* CPU: set it to false"),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED)
def test_what_cannot_be_recorded_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    study = CONFIGS / "study" / "fashion.yaml"
    changes = ["sizes=[xs]", "by_size={}", "launch.device=cpu", f"launch.folder={tmp_path / 'runs'}", *overrides]
    assert run_cli(lambda: app(["study", "run", str(study), *changes])) == 2
    assert re.match(f"error: {said}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["3", "[1]", "[0,3]", "[1,2,3]", "[a,b]"])
def test_a_window_that_is_not_two_steps_names_the_key(value: str) -> None:
    with pytest.raises(ConfigError, match=r"launch\.profile"):
        open_study(CONFIGS / "study" / "fashion.yaml", [f"launch.profile={value}"])


def test_a_window_that_some_runs_do_not_reach_is_no_error() -> None:
    study = open_study(CONFIGS / "study" / "fashion.yaml", ["launch.profile=[300,500]"])
    check_launch(study.config, study.family, CPU)


def test_a_run_is_profiled_and_stays_as_it_is(tmp_path: Path) -> None:
    reader, spec = noise_shards(tmp_path / "shards"), spec_of("sct")
    run(spec, tmp_path / "plain", reader, Launch(log_every=1))
    run(spec, tmp_path / "watched", reader, Launch(log_every=1, profile=(STEPS - 1, STEPS + 10)))
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / home / "metrics.jsonl").lines]
        for home in ("plain", "watched")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    name = f"rank-0-steps-{STEPS - 1}-{STEPS}"
    assert names(tmp_path / "watched" / "profile") == [f"{name}.json.gz", f"{name}.txt"]
