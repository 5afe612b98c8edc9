"""The part of a tensor that one rank holds.

Every strategy leaves a rank with a run of consecutive elements of each flattened tensor: all of them (DDP), whole rows
(FSDP2, HSDP), or any run (ZeRO). Averages, checkpoints and weight normalisation see only this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Elements [offset, offset + local.numel()) of a flattened tensor of shape `shape`.

    local: 1-D, contiguous, a view of what holds them, on its device; empty where this rank holds none of the tensor.
    replica, replicas: this rank is number `replica` of `replicas` ranks that hold the same run.
    """

    local: Tensor
    offset: int
    shape: tuple[int, ...]
    replica: int = 0
    replicas: int = 1

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    def like(self, local: Tensor) -> Piece:
        """The same run of another tensor of this shape, such as a moment or an average."""
        return replace(self, local=local)

    def own(self) -> Piece:
        """The share of a replicated run that this rank alone answers for: what it writes, what it counts."""
        first, last = (len(self.local) * n // self.replicas for n in (self.replica, self.replica + 1))
        return Piece(self.local[first:last], self.offset + first, self.shape)
