"""On how many devices a run fits, under each way of sharding it, with and without activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from models.network import NetworkConfig
from scaling.config.recipes import Method
from scaling.config.sections import Precision, Strategy
from scaling.plan.accelerators import Accelerator
from scaling.plan.costs import is_guided
from scaling.plan.memory.device import DeviceMemory, device_memory
from scaling.run.spec import RunSpec
from scaling.training.sharding.placement import divisors


@dataclass(frozen=True)
class Placement:
    """One run on `devices` devices, each taking `microbatch` images a pass.

    smallest_devices: the smallest power of two of devices on which the run fits, with the same images a pass or the
    batch / devices where that is less; None where none does. Both it and `fits` are None where the accelerator's memory
    is not known.
    """

    strategy: Strategy
    activation_checkpointing: bool
    devices: int
    microbatch: int
    memory: DeviceMemory
    fits: bool | None
    smallest_devices: int | None

    def to_json(self) -> dict[str, object]:
        """Plain values, with the unit in each key."""
        plain = {key: value for key, value in vars(self).items() if key != "memory"}
        parts = {f"{part}_bytes": size for part, size in asdict(self.memory).items()}
        return {**plain, **parts, "total_bytes": self.memory.total}


@dataclass(frozen=True)
class _Demand:
    """What decides a run's memory, on whatever devices."""

    network: NetworkConfig
    method: Method
    batch: int
    precision: Precision
    emas: int
    guided: bool
    dropout_to: int | None
    guides: int

    def memory(self, strategy: Strategy, checkpointing: bool, devices: int, microbatch: int) -> DeviceMemory:
        """With at most so many images a pass: the largest number that divides what a device gets."""
        return device_memory(
            self.network,
            self.method,
            strategy,
            world=devices,
            microbatch=max(n for n in divisors(self.batch // devices) if n <= microbatch),
            precision=self.precision,
            emas=self.emas,
            checkpointing=checkpointing,
            guided=self.guided,
            dropout_to=self.dropout_to,
            guides=self.guides,
        )

    def smallest(self, strategy: Strategy, checkpointing: bool, microbatch: int, usable: float) -> int | None:
        """The smallest power of two of devices that divides the batch and suffices."""
        devices = 1
        while self.batch % devices == 0:
            if self.memory(strategy, checkpointing, devices, microbatch).total <= usable:
                return devices
            devices *= 2
        return None


def placements(
    spec: RunSpec, accelerator: Accelerator, strategies: Sequence[Strategy], devices: int, microbatch: int
) -> Iterator[Placement]:
    """The run under each strategy, without and with activation checkpointing; `microbatch` 0 is the batch / devices."""
    demand = _Demand(
        network=spec.network_config(),
        method=spec.method,
        batch=spec.recipe.batch,
        precision=spec.precision,
        emas=spec.ema.count,
        guided=is_guided(spec),
        dropout_to=spec.recipe.dropout_max_resolution,
        guides=int(spec.guide is not None),
    )
    microbatch = microbatch or demand.batch // devices
    usable = accelerator.usable_bytes
    for strategy in strategies:
        for checkpointing in (False, True):
            memory = demand.memory(strategy, checkpointing, devices, microbatch)
            fits = None if usable is None else memory.total <= usable
            smallest = None if usable is None else demand.smallest(strategy, checkpointing, microbatch, usable)
            yield Placement(strategy, checkpointing, devices, microbatch, memory, fits, smallest)
