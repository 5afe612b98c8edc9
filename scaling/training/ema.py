"""Exponential moving averages of the weights: power-function profiles (EDM2, section 3.1) and plain half-lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from scaling.config.sections import Ema
from scaling.training.sharding.pieces import Piece

WIDEST = 0.28  # sigma_rel of a power-function profile is below this


def power_exponent(sigma_rel: float) -> float:
    """gamma of the profile whose relative width is sigma_rel (EDM2, Eq. 126): 16.97 for .05, 6.94 for .10.

    Raises ValueError where there is no such profile.
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(
            f"sigma_rel {sigma_rel} is out of range: a power-function profile has 0 < sigma_rel < {WIDEST}"
        )
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def profile_name(value: float) -> str:
    """The name of a profile: of a power function by its sigma_rel, below 1, or of a half-life in images, from 1 on."""
    return f"ema-{value}" if value < 1 else f"ema-{value:.0f}images"


def power_decay(sigma_rel: float) -> Callable[[int], float]:
    """beta by update: (1 - 1/n)^(gamma + 1) (EDM2, Eq. 127).

    After update n the average's weights follow (i / n)^gamma; the starting weights leave at the first update.
    """
    exponent = power_exponent(sigma_rel) + 1
    return lambda update: (1 - 1 / update) ** exponent


def half_life_decay(images: int, batch: int) -> Callable[[int], float]:
    """beta by update: always 2^(-batch / images), so that an image counts half as much as one `images` after it."""
    beta = 0.5 ** (batch / images)
    return lambda update: beta


class Averages:
    """One float32 copy of this rank's pieces of the parameters for each profile; ranks need not talk.

    After update n the copy is (1 - beta) theta_n + beta copy, with the profile's beta. It starts as the weights do.
    """

    def __init__(self, weights: Mapping[str, Piece], ema: Ema, batch: int) -> None:
        """weights: those before the first update. batch: images an update."""
        self._decays = {profile_name(s): power_decay(s) for s in ema.sigma_rel}
        self._decays |= {profile_name(h): half_life_decay(h, batch) for h in ema.half_life_images}
        self._pieces = {profile: _copies(weights) for profile in self._decays}

    @property
    def names(self) -> tuple[str, ...]:
        """The profiles, as `profile_name` calls them."""
        return tuple(self._decays)

    def pieces(self, profile: str) -> dict[str, Piece]:
        """The averages of one profile by parameter, views that follow training."""
        return self._pieces[profile]

    @torch.no_grad()
    def update(self, weights: Mapping[str, Piece], update: int) -> None:
        """Take in the weights after update number `update`, counted from 1."""
        for profile, decay in self._decays.items():
            copies = self._pieces[profile]
            old: list[Tensor] = [piece.local for piece in copies.values()]
            new = [weights[name].local for name in copies]
            torch._foreach_lerp_(old, new, 1 - decay(update))  # pyright: ignore[reportPrivateImportUsage]


def _copies(weights: Mapping[str, Piece]) -> dict[str, Piece]:
    return {name: piece.like(piece.local.detach().float().clone()) for name, piece in weights.items()}
