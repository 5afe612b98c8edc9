"""Exponential moving averages with power-function profiles (EDM2, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def power_exponent(sigma_rel: float) -> float:
    """gamma of the profile whose relative width is sigma_rel (EDM2, Eq. 126): 16.97 for .05, 6.94 for .10."""
    if not 0 < sigma_rel < 0.28:
        raise ValueError(f"sigma_rel {sigma_rel} is out of range: a power-function profile has 0 < sigma_rel < 0.28")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEMA:
    """One float32 copy of a module's parameters for each sigma_rel.

    After step n the copy is (1 - beta) theta_n + beta copy with beta = (1 - 1/n)^(gamma + 1) (EDM2, Eq. 127), so that
    its weights follow (step / n)^gamma; the starting weights leave at the first step.
    """

    def __init__(self, module: nn.Module, sigma_rel: Sequence[float]) -> None:
        self.names = [name for name, _ in module.named_parameters()]
        self.profiles = {s: [p.detach().float().clone() for p in module.parameters()] for s in sigma_rel}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the parameters after step number `step`, counted from 1."""
        weights = [p.detach() for p in module.parameters()]
        for sigma_rel, copies in self.profiles.items():
            beta = (1 - 1 / step) ** (power_exponent(sigma_rel) + 1)
            torch._foreach_lerp_(copies, weights, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]

    def state(self, sigma_rel: float) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(zip(self.names, self.profiles[sigma_rel], strict=True))

    @torch.no_grad()
    def load(self, sigma_rel: float, tensors: Mapping[str, Tensor]) -> None:
        """Set one profile from tensors by name."""
        for name, copy in zip(self.names, self.profiles[sigma_rel], strict=True):
            copy.copy_(tensors[name])
