"""The dynamic loss scale of float16: gradients are computed on a multiple of the loss, so that they do not underflow.

torch.amp.GradScaler works on the gradients of one optimizer of torch; ZeRO keeps its gradients elsewhere, and all
strategies must take the same decisions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

START = 2.0**16
GROWTH_INTERVAL = 2000  # steps without an overflow after which the scale is doubled, as in torch.amp


@dataclass
class LossScale:
    """value: the factor of the loss; good_steps: steps in a row without an overflow at this value."""

    value: float
    good_steps: int = 0

    @classmethod
    def of(cls, precision: str) -> LossScale:
        """2^16 for fp16; 1 for the others, whose range is that of float32."""
        return cls(START if precision == "fp16" else 1.0)

    def update(self, finite: bool, precision: str) -> None:
        """Halve it after a step whose gradient was not finite, double it after GROWTH_INTERVAL good ones."""
        if precision != "fp16":
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """Plain values, of which `LossScale(**state)` makes it again."""
        return asdict(self)
