"""Which strategies can be had, what families choose, and how losses are scaled."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from models.family import FamilyError, build_family
from scaling.config.families import CONFIGS, load_family
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.errors import ParallelError
from scaling.study.checks import check_launch
from scaling.study.launch import launch_of
from scaling.study.open import open_study
from scaling.training.loss_scale import GROWTH_INTERVAL, START, LossScale
from scaling.training.sharding.parallel import check_strategy
from scaling.training.sharding.placement import strategy_of

NANO_PATH = CONFIGS / "study" / "fashion.yaml"
CPU = torch.device("cpu")


@pytest.mark.parametrize("strategy", ["fsdp2", "hsdp", "zero1", "zero2", "zero3"])
def test_one_device_cannot_be_shared_by_what_shares(strategy: Any) -> None:
    with pytest.raises(ParallelError, match=f"launch.strategy: {strategy} spreads .* set it to auto, or"):
        check_strategy(Launch(strategy=strategy), 1)
    check_strategy(Launch(strategy=strategy), 2)


def test_zero_without_deepspeed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    with pytest.raises(ParallelError, match=r"zero2 needs DeepSpeed: pip install 'trigscale\[deepspeed\]'"):
        check_strategy(Launch(strategy="zero2"), 2)
    check_strategy(Launch(strategy="fsdp2"), 2)


@pytest.mark.parametrize(
    ("family", "size", "devices", "wanted"),
    [
        ("img512", "s", 64, "ddp"),
        ("img512", "l", 1, "ddp"),
        ("img512", "l", 8, "fsdp2"),
        ("img512", "xxl", 15, "fsdp2"),
        ("img512", "xxl", 64, "hsdp"),
        ("nano", "l", 2, "ddp"),
    ],
)
def test_a_family_names_the_strategy(family: str, size: str, devices: int, wanted: str) -> None:
    found = load_family(family)
    assert strategy_of("auto", found, size, devices) == wanted
    assert strategy_of("zero1", found, size, devices) == "zero1"


def test_a_family_file_with_a_bad_strategy() -> None:
    content = {"name": "f", "common": {"resolution": 8, "latent_channels": 4, "num_classes": 0}}
    content |= {"common": {**content["common"], "model_channels": 8, "channel_mult": [1], "blocks_per_level": 1}}
    content["common"] |= {"attention_resolutions": [], "head_channels": 8}
    content["sizes"] = {"a": {}}
    for strategy, said in [
        ({"b": {1: "ddp"}}, "strategy.b: there is no such size; the sizes are a"),
        ({"a": "ddp"}, r"strategy.a is 'ddp': give \{devices: strategy\}"),
        ({"a": {0: "ddp"}}, "strategy.a is {0: 'ddp'}"),
        ([1], "strategy is"),
    ]:
        with pytest.raises(FamilyError, match=said):
            build_family({**content, "strategy": strategy}, "f.yaml")
    family = build_family({**content, "strategy": {"a": {1: "fsdp3"}}}, "f.yaml")
    with pytest.raises(ConfigError, match="strategy of size 'a' in family 'f': unknown 'fsdp3': known are auto, ddp"):
        strategy_of("auto", family, "a", 1)


def test_a_launch_is_checked_before_anything_is_written() -> None:
    study = open_study(NANO_PATH, ["launch.devices=3"])
    with pytest.raises(ConfigError, match="devices: 3 does not divide the batch of 32 of teacher-xs; these do"):
        check_launch(study.config, study.family, CPU)
    study = open_study(NANO_PATH, ["launch.devices=2", "launch.microbatch=5"])
    with pytest.raises(ConfigError, match="microbatch: 5 does not divide the 16 images"):
        check_launch(study.config, study.family, CPU)
    study = open_study(NANO_PATH, ["launch.devices=2", "launch.strategy=zero3", "launch.microbatch=8"])
    check_launch(study.config, study.family, CPU)
    assert launch_of(study.config, study.family, "xs").strategy == "zero3"


def test_the_loss_scale_follows_overflows() -> None:
    scale = LossScale.of("fp16")
    scale.update(False, "fp16")
    assert (scale.value, scale.good_steps) == (START / 2, 0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(True, "fp16")
    assert scale.value == START / 2
    again = LossScale(**scale.state())
    again.update(True, "fp16")
    assert (again.value, again.good_steps) == (START, 0)
    for precision in ("fp32", "bf16"):
        scale = LossScale.of(precision)
        scale.update(False, precision)
        assert scale.value == 1
