"""`trigscale study plan`: what it prints and returns, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaling.config.sections import STRATEGIES
from scaling.plan.accelerators import ACCELERATORS
from tests.plan.conftest import STUDY

Fixture = Any  # conftest.py says what it is
IMAGENET = Path(__file__).parents[2] / "configs" / "study" / "imagenet512.yaml"
PARTS = ("parameters", "gradients", "optimizer", "ema", "gathered", "frozen", "activations")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The study of conftest.py as a file, with two seeds."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "seeds": [0, 1]}))
    return path


def test_the_study_of_the_paper(plan: Fixture) -> None:
    """On one named device, with everything per run and in total."""
    code, out, err = plan(IMAGENET, "--json", "--budget", 2000, "--utilisation", 0.5)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["accelerator"]["name"], found["rate"]["source"]) == ("h100-80gb", "assumed")
    sizes, methods = ("s", "m", "l", "xl", "xxl"), ("teacher", "sct", "scd", "scd_vsd")
    runs = {(run["size"], run["method"]): run for run in found["runs"]}
    assert set(runs) == {(size, method) for size in sizes for method in methods}
    for run in runs.values():
        assert run["device_hours"] == pytest.approx((run["train_flops"] + run["evaluation_flops"]) / 494.5e12 / 3600)
        assert [memory["strategy"] for memory in run["memory"][::2]] == list(STRATEGIES)
        for plain, recomputed in zip(run["memory"][::2], run["memory"][1::2], strict=True):
            assert (plain["activation_checkpointing"], recomputed["activation_checkpointing"]) == (False, True)
            assert plain["activations_bytes"] > recomputed["activations_bytes"]
            assert plain["total_bytes"] == sum(plain[f"{part}_bytes"] for part in PARTS)
            assert plain["fits"] == (plain["total_bytes"] <= found["accelerator"]["usable_bytes"])
            assert recomputed["smallest_devices"] <= (plain["smallest_devices"] or 2048)
    assert runs["s", "teacher"]["images"] == 1_048_000 * 2048
    assert found["totals"]["runs"] == 20
    for way in ("whole_sizes", "common_fraction"):
        bought = found["budget"][way]
        assert 1990 < bought["device_hours"] <= 2000
        assert [run["run"] for run in bought["runs"]] == [run["run"] for run in found["runs"]]
        kept = [run["steps"] + run["steps_left_out"] for run in bought["runs"]]
        assert kept == [run["steps"] for run in found["runs"]]


def test_tables_fit_the_terminal_and_say_what_json_says(study: Path, plan: Fixture) -> None:
    found = json.loads(plan(study, "--json")[1])
    code, out, _ = plan(study, "--accelerator", "a100-40gb", "--devices", 8, "--microbatch", 1, "--budget", 1)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 120
    assert "…" not in out
    for run in found["runs"]:
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [run["run"]])
        assert f"{run['parameters']:,}" in line
        assert f"{run['train_flops']:.2e}" in line
        (macs,) = (macs for steps, macs in run["sample_macs"].items() if steps in ("1", "3"))
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [run["size"]] and line.endswith("M  "))
        assert f" {macs / 1e6:.2f} M " in line
    forwards = "teacher 3, sCD 6, sCT 4, VSD 9, sCD+VSD 15"
    for words in (forwards, "ddp", "zero3", "smallest number of a100-40gb", "NFE 10"):
        assert words in out
    assert out.count("everything fits") == 2


def test_options_replace_keys(study: Path, plan: Fixture) -> None:
    keys = ("launch.accelerator=a100-80gb", "launch.devices=4", "launch.microbatch=2", "launch.strategy=hsdp")
    by_keys = json.loads(plan(study, *keys, "--json")[1])
    assert (by_keys["accelerator"]["name"], by_keys["devices"]) == ("a100-80gb", 4)
    options = ("--accelerator", "A100-80GB", "--devices", 4, "--microbatch", 2)
    assert json.loads(plan(study, *options, keys[-1], "--json")[1]) == by_keys
    memory = by_keys["runs"][0]["memory"]
    assert ([m["strategy"] for m in memory[::2]], {m["microbatch"] for m in memory}) == (list(STRATEGIES), {2})
    alone = json.loads(plan(study, *options, "--strategy", "zero2", "--json")[1])["runs"][0]["memory"]
    assert alone == [m for m in memory if m["strategy"] == "zero2"]
    assert "GiB a device: hsdp, devices: 4" in plan(study, *keys)[1].replace("MiB", "GiB")


def test_checkpointing_costs_a_forward_pass(study: Path, plan: Fixture) -> None:
    plain, recomputed = (
        json.loads(plan(study, f"launch.activation_checkpointing={flag}", "--json")[1])["runs"][0]
        for flag in ("false", "true")
    )
    assert recomputed["train_flops"] == plain["train_flops"] * 4 / 3


def test_a_small_budget_buys_nothing(study: Path, plan: Fixture) -> None:
    code, out, _ = plan(study, "--budget", 1e-9)
    assert code == 0
    assert out.count("nothing fits") == 2
    found = json.loads(plan(study, "--budget", 1e-9, "--json")[1])["budget"]
    assert {run["steps"] for run in found["whole_sizes"]["runs"]} == {0}


def test_a_budget_names_what_is_left_out(study: Path, plan: Fixture) -> None:
    """Half of the whole: the smaller size in full, a part of the larger; or about half of everything."""
    whole = json.loads(plan(study, "--json")[1])
    half = whole["totals"]["device_hours"] / 2
    out = plan(study, "--budget", half)[1]
    lines = [line.split() for line in out.splitlines() if "-xs-" in line or "-s-" in line]
    first = {line[0]: line for line in lines[20:40]}
    assert all(line[-1] == "whole" for name, line in first.items() if "-xs-" in name)
    assert all(line[-1].endswith("%") or line[-2:] == ["left", "out"] for name, line in first.items() if "-s-" in name)
    steps = {run["run"]: run["steps"] for run in whole["runs"]}
    for name, line in first.items():
        assert int(line[1].replace(",", "")) + int(line[2].replace(",", "")) == steps[name]
    exact = json.loads(plan(study, "--budget", whole["totals"]["device_hours"], "--json")[1])["budget"]
    assert {run["steps_left_out"] for way in ("whole_sizes", "common_fraction") for run in exact[way]["runs"]} == {0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--accelerator", "v100"), f"unknown 'v100'; known: {', '.join(ACCELERATORS)}"),
        (("launch.accelerator=v100",), f"known: {', '.join(ACCELERATORS)}"),
        (("--accelerator", "h100"), f"did you mean 'h100-80gb'? known: {', '.join(ACCELERATORS)}"),
        (("--devices", "5"), "these do: 1, 2, 3, 4, 6, 8, 12, 24"),
        (("--devices", "4", "--microbatch", "4"), "these do: 1, 2, 3, 6"),
        (("--utilisation", "0"), "above 0 and at most 1"),
        (("--utilisation", "40"), "above 0 and at most 1"),
        (("--budget", "0"), "device-hours above 0"),
        (("--budget=-3",), "device-hours above 0"),
        (("--budget", "nan"), "device-hours above 0"),
        (("--strategy", "fsdp"), f"known are auto, {', '.join(STRATEGIES)}"),
        (("--measured", "nowhere/metrics.jsonl"), "--measured nowhere/metrics.jsonl: is no run"),
        (("--measured", "nowhere", "--utilisation", "0.4"), "give one of them"),
    ],
)
def test_bad_options_exit_2(study: Path, plan: Fixture, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = plan(study, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err


def test_what_a_study_leaves_on_the_disk(study: Path, plan: Fixture) -> None:
    """Two checkpoints a run, those that are kept for good, and snapshots: bytes of parameters and buffers by hand."""

    def runs(*overrides: str) -> list[dict[str, Any]]:
        return json.loads(plan(study, "--json", "sizes=[xs]", "seeds=[0]", "methods=[teacher]", *overrides)[1])["runs"]

    (usual,), (one_more,) = runs(), runs("ema.half_life_images=[500]")
    assert usual["disk_bytes"] == 2 * usual["checkpoint_bytes"]
    whole = 4 * usual["parameters"]
    assert one_more["checkpoint_bytes"] - usual["checkpoint_bytes"] == whole
    assert one_more["memory"][0]["ema_bytes"] == 3 * whole
    (kept,) = runs("launch.checkpoint_keep=1", "launch.checkpoint_keep_steps=10", "launch.ema_snapshot_steps=10")
    snapshots = kept["disk_bytes"] - 3 * kept["checkpoint_bytes"]  # of steps 10, 20 and 30
    assert 0 <= snapshots - 3 * 2 * whole < 3 * 4 * 1000  # and the frequencies of the time embedding


def test_the_resolutions_that_drop_features_are_counted(study: Path, plan: Fixture) -> None:
    def activations(value: str) -> list[int]:
        command = [study, "--json", "sizes=[xs]", "seeds=[0]", f"sct.dropout_max_resolution={value}"]
        return [run["memory"][0]["activations_bytes"] for run in json.loads(plan(*command)[1])["runs"]]

    coarse, every = activations("4"), activations("null")
    assert [a == b for a, b in zip(coarse, every, strict=True)] == [True, True, False, True, True]
    assert coarse[2] < every[2]


def test_help_names_the_accelerators(plan: Fixture) -> None:
    out = " ".join(plan("--help")[1].split())
    assert all(name in out for name in ACCELERATORS)
