"""Accelerators by name: what their makers' data sheets promise, and how much of the memory a plan counts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling.config.validation import ConfigError, choices
from scaling.plan.units import GIB

FRAGMENTED_SHARE = 0.06  # of the memory: what the allocator holds and cannot use
RESERVED_BYTES = 1 * GIB  # context of the driver, communication buffers


@dataclass(frozen=True)
class Accelerator:
    """One device. peak_flops: dense FLOP/s by precision; memory_bytes: None where it depends on the machine.

    utilisation: the share of the peak that training is assumed to reach.
    """

    name: str
    peak_flops: Mapping[str, float]
    memory_bytes: int | None
    utilisation: float

    @property
    def usable_bytes(self) -> float | None:
        """Memory less a reserve of 6 % for fragmentation and 1 GiB for driver and communication."""
        return None if self.memory_bytes is None else self.memory_bytes * (1 - FRAGMENTED_SHARE) - RESERVED_BYTES


def _gpu(name: str, half_tflops: float, single_tflops: float, gigabytes: int) -> Accelerator:
    half, single = half_tflops * 1e12, single_tflops * 1e12
    return Accelerator(name, {"fp16": half, "bf16": half, "fp32": single}, gigabytes * 10**9, utilisation=0.4)


# Half precision: tensor cores, dense (NVIDIA's headline figures with sparsity are twice these). fp32: no TF32. A
# gigabyte is read as 10^9 bytes, a little less than the devices report.
# cpu-core: two AVX-512 units at 3.1 GHz; the assumed share makes the 60 GFLOP/s that a small U-Net was seen to get.
_KNOWN = (
    _gpu("a100-40gb", 312, 19.5, 40),
    _gpu("a100-80gb", 312, 19.5, 80),
    _gpu("h100-80gb", 989, 67, 80),
    _gpu("h200-141gb", 989, 67, 141),
    Accelerator("cpu-core", dict.fromkeys(("fp32", "bf16", "fp16"), 2e11), None, utilisation=0.3),
)
ACCELERATORS = {accelerator.name: accelerator for accelerator in _KNOWN}
DEFAULT = "cpu-core"


def get_accelerator(name: str) -> Accelerator:
    """The accelerator of that name; ConfigError lists the known."""
    if name.lower() not in ACCELERATORS:
        raise ConfigError(f"accelerator: unknown {name!r}; {choices(name.lower(), [*ACCELERATORS])}")
    return ACCELERATORS[name.lower()]
