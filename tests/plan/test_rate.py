"""FLOP/s of a device: assumed, and measured in a run's metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.family import count_macs
from scaling.config.sections import NetworkFiles
from scaling.config.validation import ConfigError
from scaling.plan.accelerators import ACCELERATORS
from scaling.plan.rate import assumed_rate, measured_rate
from scaling.run.spec import RunFile, dump_run

Fixture = Any  # conftest.py says what it is
CORE, H100 = ACCELERATORS["cpu-core"], ACCELERATORS["h100-80gb"]


def test_an_assumed_share_of_the_peak() -> None:
    rate = assumed_rate(H100, "fp16", 0.5)
    assert (rate.flops_per_second, rate.utilisation) == (989e12 / 2, 0.5)
    assert rate.hours(989e12 / 2 * 3600 * 7) == pytest.approx(7)
    assert assumed_rate(H100, "fp16", 1).utilisation == 1
    assert assumed_rate(H100, "fp16", None).utilisation == H100.utilisation
    for share in (0, -0.1, 1.01, 40, float("nan")):
        with pytest.raises(ConfigError, match=r"--utilisation .*above 0 and at most 1"):
            assumed_rate(H100, "fp16", share)


@pytest.fixture
def home(tmp_path: Path, make_study: Fixture) -> Path:
    """The folder of an sCD run that made 10, 30, 20 and 1000 images a second after its start."""
    config, runs = make_study()
    run = next(run for run in runs if run.spec.method == "scd")
    file = RunFile(
        study=config.name,
        identity=run.spec.identity(),
        spec=run.spec,
        shards=tmp_path,
        references={},
        networks=NetworkFiles(),
        teacher_home=tmp_path,
        launch=config.launch,
    )
    (tmp_path / "config.yaml").write_text(dump_run(file))
    write(tmp_path / "metrics.jsonl", [3, 10, 30, 20, 1000])
    return tmp_path


def write(path: Path, speeds: list[float]) -> None:
    lines = [{"step": n + 1, "images": 24 * (n + 1), "images_per_second": speed} for n, speed in enumerate(speeds)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_measured_speed_scales_by_macs(home: Path, make_study: Fixture) -> None:
    """The median of the lines after the first, 25 images/s, at 6 forward passes an image."""
    spec = make_study()[1][1].spec
    for path in (home, home / "metrics.jsonl"):
        rate = measured_rate(CORE, "fp32", path)
        assert rate.flops_per_second == pytest.approx(25 * 6 * 2 * count_macs(spec.network_config()))
        assert rate.utilisation == pytest.approx(rate.flops_per_second / 2e11)
        assert rate.source == f"measured in {spec.name()}"


def test_a_speed_above_the_peak_is_another_device(home: Path) -> None:
    write(home / "metrics.jsonl", [1, 1e9])
    with pytest.raises(ConfigError, match=r"above the peak of cpu-core.*--accelerator"):
        measured_rate(CORE, "fp32", home)


@pytest.mark.parametrize("content", ["", '{"images_per_second": 3}\n', "nonsense\nnonsense\n", "{}\n{}\n", "[]\n[]\n"])
def test_what_is_no_measurement_is_named(home: Path, content: str) -> None:
    (home / "metrics.jsonl").write_text(content)
    with pytest.raises(ConfigError) as refused:
        measured_rate(CORE, "fp32", home)
    assert str(home / "metrics.jsonl") in str(refused.value)


def test_no_run_there(home: Path, tmp_path: Path) -> None:
    (home / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"metrics.jsonl: no such file"):
        measured_rate(CORE, "fp32", home)
    with pytest.raises(ConfigError, match=r"--measured .*nowhere/metrics.jsonl: is no run"):
        measured_rate(CORE, "fp32", tmp_path / "nowhere" / "metrics.jsonl")
