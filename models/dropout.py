"""Dropout whose mask is a function of sample, step, block and element: no generator state, the same on every device.

torch.compile traces it without a break, the value and its tangent share it, a recomputed block draws it again, and it
does not depend on how samples are spread over devices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.dual import Signal, linear, value_of

GOLDEN = 0x9E3779B97F4A7C15 >> 9  # 2^55 / golden ratio: spreads the numbers of up to 256 blocks over 63 bits
LOW_BITS = 2**31 - 1


class Dropout(NamedTuple):
    """rate: share of elements dropped; keys int64 [B]: one for each sample at this step, random in all bits.

    max_resolution: the finest level at which blocks drop; None: all do.
    """

    rate: float
    keys: Tensor
    max_resolution: int | None = None

    def at(self, resolution: int, block: int) -> Dropout | None:
        """The dropout of block number `block`; None where blocks of that resolution drop nothing."""
        if not self.rate or (self.max_resolution is not None and resolution > self.max_resolution):
            return None
        return self._replace(keys=self.keys ^ (block + 1) * GOLDEN)


def dropout(x: Signal, drop: Dropout) -> Signal:
    """Zero a share `rate` of the elements of x [B, ...] and scale the rest by 1 / (1 - rate)."""
    value = value_of(x)
    keep = random_bits(drop.keys, value[0].numel()) >= int(drop.rate * 2**31)
    mask = keep.reshape(value.shape).to(value.dtype) / (1 - drop.rate)
    return linear(lambda v: v * mask, x)


def random_bits(keys: Tensor, count: int) -> Tensor:
    """31 random bits for each key and element, int32 [B, count]."""
    low, high = keys.to(torch.int32)[:, None], (keys >> 32).to(torch.int32)[:, None]
    element = torch.arange(count, dtype=torch.int32, device=keys.device)
    # Two rounds: with one, samples whose low words lie near each other would share bits in another order.
    return _mix(_mix(element ^ low) ^ high) & LOW_BITS


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words under which neighbours become unrelated (the finaliser "lowbias32", C. Wellons)."""
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
    x = (x ^ (x >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return x ^ (x >> 16 & 0xFFFF)
