"""`study rehearse` on this machine, `study logs`, and what both say where something is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scaling.run.home import RunHome
from scaling.study.open import open_study
from scaling.study.rehearse import STEPS, _measured, _released, disk, shortened
from scaling.study.rehearsed import KILLED, RELEASED, SCRATCH, try_release

Fixture = Callable[..., Any]


@pytest.mark.slow
def test_every_stage_is_tried_and_every_run_killed(
    tmp_path: Path, write_study: Fixture, spawn: Fixture, cli: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole study in little: two methods, three processes that die."""
    path = write_study(tmp_path, methods=["teacher", "scd"], launch={"workers": 1})
    result = spawn("scaling", "study", "rehearse", path, "--json").wait()
    assert result.code == 0, result.err
    found = json.loads(result.out)
    works = {check["what"]: check["found"] for check in found["checks"] if check["works"]}
    assert {"study file", "data", "disk", "report"} <= works.keys()
    for method in ("teacher", "scd"):
        assert works[f"{method}-xs"] == "trained, killed, continued, sampled and judged"
        assert works[f"release of {method}-xs"] == "made, 6 files verified, its picture drawn again; discarded"
    assert [each["run"] for each in found["measured"]] == ["teacher-xs", "scd-xs"]
    assert found["corrected_hours"] == pytest.approx(sum(each["device_hours"] for each in found["measured"]))
    assert not (tmp_path / "runs" / "tiny").exists()
    folder = tmp_path / "runs" / "tiny-rehearsal"
    for home in folder.glob("*-xs-*"):
        assert (home / KILLED).exists()
        assert not (home / SCRATCH).exists()
        steps = [json.loads(line)["step"] for line in (home / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
    said = cli("study", "logs", path, "scd", "name=tiny-rehearsal").out
    assert said.splitlines()[-1].endswith("done")
    assert cli("study", "logs", path, "s", "name=tiny-rehearsal").code == 0
    ambiguous = cli("study", "logs", path, "nothing", "name=tiny-rehearsal")
    assert (ambiguous.code, "is no run" in ambiguous.err) == (2, True)
    monkeypatch.setenv("SOME_TOKEN", said.split()[1])
    assert "[SOME_TOKEN]" in cli("study", "logs", path, "scd", "name=tiny-rehearsal").out


def test_a_release_that_cannot_be_made_is_a_line_of_the_table(finished: Fixture, tmp_path: Path) -> None:
    """A run whose data nobody vouches for any more; the run itself is as it was."""
    homes = finished.copy(tmp_path)  # pyright: ignore[reportFunctionMemberAccess]
    home = RunHome(homes.of("teacher"))
    assert "was not made to its end" in _released("release of it", home).found
    try_release(home.path)
    assert _released("release of it", home).works is True
    text = home.config.read_text()
    home.config.write_text(re.sub("shards: .*", f"shards: {tmp_path / 'moved'}", text))
    try_release(home.path)
    check = _released("release of it", home)
    assert (check.works, "not all of its making can be verified" in check.found) == (False, True)
    assert json.loads((home.path / RELEASED).read_text())["works"] is False
    assert not (home.path / SCRATCH).exists()
    (home.path / RELEASED).write_text("[]")
    check = _released("release of it", home)
    assert (check.works, RELEASED in check.found) == (False, True)


def test_what_is_missing_is_listed_and_nothing_runs(tmp_path: Path, write_study: Fixture, cli: Fixture) -> None:
    path = write_study(tmp_path, evaluation={"metric": "fid"})
    result = cli("study", "rehearse", path, "--json")
    found = {check["what"]: check for check in json.loads(result.out)["checks"]}
    assert result.code == 1
    assert found["evaluation.metric"]["works"] is False
    assert found["data"]["works"] is True
    assert found["runs"]["works"] is None
    assert not (tmp_path / "runs" / "tiny-rehearsal").exists()


def test_memory_is_held_against_the_device(tmp_path: Path, cli: Fixture) -> None:
    """Of the paper's largest size on one small device; nothing runs, whatever else is missing."""
    words = ("imagenet512", "sizes=[xxl]", "methods=[teacher]", "launch.accelerator=a100-40gb", "launch.devices=1")
    result = cli("study", "rehearse", *words, f"launch.folder={tmp_path}", "--sizes-on-meta", "--json")
    found = {check["what"]: check for check in json.loads(result.out)["checks"]}
    assert result.code == 1
    assert found["memory of teacher-xxl"]["works"] is False
    assert "a smaller launch.microbatch" in found["memory of teacher-xxl"]["found"]
    assert found["disk"]["works"] is not None
    assert "runs" not in found


def test_the_short_study_is_the_same_but_for_its_length(tmp_path: Path, write_study: Fixture) -> None:
    study = open_study(write_study(tmp_path, by_size={"xs": {"scd": {"steps": 99, "lr": 0.5}}}))
    small = shortened(study)
    assert small.config.name == "tiny-rehearsal"
    assert small.config.recipe("scd", "xs").model_dump() == {
        **study.config.recipe("scd", "xs").model_dump(),
        "steps": STEPS,
    }
    assert small.config.launch.devices == study.config.launch.devices


def test_a_full_disk_is_foreseen(tmp_path: Path) -> None:
    from types import SimpleNamespace

    plan: Any = SimpleNamespace(runs=[SimpleNamespace(disk_bytes=10**18)])
    check = disk(tmp_path, plan)
    assert check.works is False
    assert "make room" in check.found


def test_a_variant_is_measured_against_its_own_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not against that of the method which it varies."""
    monkeypatch.setattr("scaling.plan.rate.measured_speed", lambda _: (2.0, None))
    specs = {label: SimpleNamespace(label=label, method="scd", size="xs", seed=0) for label in ("scd", "scd_raw")}
    plans = [
        SimpleNamespace(
            spec=spec, cost=SimpleNamespace(images=1, train_flops=flops, flops=flops), placements=(), strategy="ddp"
        )
        for flops, spec in enumerate(specs.values(), 1)
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores.json").touch()
    plan: Any = SimpleNamespace(runs=plans, rate=SimpleNamespace(flops_per_second=12.0))
    study: Any = SimpleNamespace(config=SimpleNamespace(launch=SimpleNamespace(devices=1)))
    run: Any = SimpleNamespace(name="run", spec=specs["scd_raw"])
    small: Any = SimpleNamespace(folder=tmp_path)
    (found,) = _measured(study, plan, small, [run])
    assert found["planned_images_per_second"] == 12.0 / 2
