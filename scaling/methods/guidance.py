"""Classifier-free guidance: one strength s for the direction from no label to a label.

F_s = F(x, t, none) + s (F(x, t, label) - F(x, t, none)); s = 1 is the network itself. A teacher pays two evaluations
for it; a student that was distilled from guided teachers takes s as an input and pays one (sCM).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from models.trigflow import expand

NO_LABEL = -1


class Network(Protocol):
    """F at x [B, C, H, W], t [B], labels int64 [B] and, for a network with such inputs, guidance [B], a time to [B]."""

    def __call__(
        self, x: Tensor, t: Tensor, labels: Tensor, *, guidance: Tensor | None = None, to: Tensor | None = None
    ) -> Tensor: ...


def guided(network: Network, x: Tensor, t: Tensor, labels: Tensor, strength: Tensor) -> Tensor:
    """F with guidance of `strength` [B] from one pass over the batch with and without labels, [B, C, H, W]."""
    both = torch.cat([torch.full_like(labels, NO_LABEL), labels])
    without, with_label = network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return without + expand(strength, x) * (with_label - without)


def guided_by(guide: Network, network: Network, x: Tensor, t: Tensor, labels: Tensor, strength: Tensor) -> Tensor:
    """F with autoguidance of `strength` [B]: away from a weaker network of the same labels, [B, C, H, W]."""
    weaker = guide(x, t, labels)
    return weaker + expand(strength, x) * (network(x, t, labels) - weaker)
