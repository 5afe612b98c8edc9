"""The smallest number of devices, by a memory model with a closed form; what divides what; the accelerators."""

from __future__ import annotations

from typing import Any

import pytest

from scaling.config.validation import ConfigError
from scaling.plan.accelerators import ACCELERATORS, get_accelerator
from scaling.plan.memory import placements as devices
from scaling.plan.memory.device import DeviceMemory
from scaling.plan.memory.placements import Placement, placements
from scaling.training.sharding.placement import check_devices, divisors

Fixture = Any  # conftest.py says what it is
A100 = ACCELERATORS["a100-40gb"]
GB = 10**9


def fake_memory(
    network: Any, method: str, strategy: str, *, world: int, microbatch: int, checkpointing: bool, **_: Any
) -> DeviceMemory:
    """20 GB of parameters, sharded or not, and 10 GB an image; with checkpointing 5."""
    parameters = 20 * GB // (1 if strategy == "ddp" else world)
    activations = microbatch * (5 if checkpointing else 10) * GB
    return DeviceMemory(parameters, 0, 0, 0, 0, 0, activations)


@pytest.fixture
def place(make_study: Fixture, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    """Placements of a run with a batch of 24 under the memory model."""
    monkeypatch.setattr(devices, "device_memory", fake_memory)
    spec = make_study()[1][0].spec

    def placing(strategy: Any, number: int, microbatch: int, accelerator: Any = A100) -> list[Placement]:
        return list(placements(spec, accelerator, [strategy], number, microbatch))

    return placing


def test_smallest_number_of_devices(place: Fixture) -> None:
    """36.5 GB are usable. The batch of 24 allows 1, 2, 4 and 8 devices, with 24, 12, 6 and 3 images each."""
    assert A100.usable_bytes == pytest.approx(40 * GB * 0.94 - 2**30)
    plain, recomputed = place("fsdp2", 8, 3)  # 10 GB an image: 20 / 8 + 30 = 32.5 on 8 devices, 35 on 4, 40 on 2
    assert [p.activation_checkpointing for p in (plain, recomputed)] == [False, True]
    assert (plain.memory.total, plain.fits, plain.smallest_devices) == (32.5 * GB, True, 4)
    assert (recomputed.memory.total, recomputed.fits, recomputed.smallest_devices) == (17.5 * GB, True, 1)
    plain, recomputed = place("ddp", 8, 3)  # 20 + 30; 20 + 15
    assert (plain.fits, plain.smallest_devices) == (False, None)
    assert (recomputed.fits, recomputed.smallest_devices) == (True, 1)


def test_a_pass_takes_no_more_than_a_device_gets(place: Fixture) -> None:
    """0 is the whole batch / devices: 24 images on one device, 3 on eight."""
    plain, _ = place("fsdp2", 1, 0)
    assert (plain.microbatch, plain.memory.activations, plain.smallest_devices) == (24, 240 * GB, 8)
    plain, _ = place("fsdp2", 2, 4)  # four devices get 6 images each, in passes of 3: 5 + 30
    assert (plain.memory.total, plain.smallest_devices) == (50 * GB, 4)


def test_an_unknown_memory_promises_nothing(place: Fixture) -> None:
    for placement in place("ddp", 1, 0, ACCELERATORS["cpu-core"]):
        assert (placement.fits, placement.smallest_devices) == (None, None)


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert all(divisors(n) == [d for d in range(1, n + 1) if n % d == 0] for n in range(1, 200))


@pytest.mark.parametrize(
    ("number", "microbatch", "said"),
    [
        (5, 0, "devices: 5 does not divide the batch of 24 of teacher-xs; these do: 1, 2, 3, 4, 6, 8, 12, 24"),
        (0, 0, "devices: 0 does not divide"),
        (-2, 0, "devices: -2 does not divide"),
        (4, 4, "microbatch: 4 does not divide the 6 images of teacher-xs on each of 4 devices; these do: 1, 2, 3, 6"),
        (4, -1, "microbatch: -1 does not divide"),
    ],
)
def test_what_does_not_divide_is_refused(make_study: Fixture, number: int, microbatch: int, said: str) -> None:
    spec = make_study()[1][0].spec
    with pytest.raises(ConfigError) as refused:
        check_devices("teacher-xs", spec.recipe.batch, number, microbatch)
    assert said in str(refused.value)
    check_devices("teacher-xs", spec.recipe.batch, 4, 3)
    check_devices("teacher-xs", spec.recipe.batch, 24, 0)


def test_accelerators() -> None:
    assert get_accelerator("H100-80GB") is ACCELERATORS["h100-80gb"]
    with pytest.raises(ConfigError) as refused:
        get_accelerator("v100")
    assert all(name in str(refused.value) for name in ("v100", *ACCELERATORS))
    for accelerator in ACCELERATORS.values():
        assert set(accelerator.peak_flops) == {"fp32", "bf16", "fp16"}
        assert accelerator.usable_bytes is None or 0 < accelerator.usable_bytes < (accelerator.memory_bytes or 0)
