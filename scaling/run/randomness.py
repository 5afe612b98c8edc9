"""Noise that belongs to a sample's position in the stream, not to a rank, a worker or a restart.

Every random number of training comes from a counter-based generator (Philox) keyed by (seed, purpose) whose counter is
the position of the sample: images seen before it. Any rank, at any time, draws the same numbers for the same position.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from models.dropout import random_bits
from scaling.run.devices import onto

WORDS_PER_COUNT = 4  # 64-bit words that one step of Philox's counter yields


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any parts, equal on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def normals(seed: int, purpose: str, first: int, count: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """N(0, 1) numbers [count, width] of the samples at positions first .. first + count - 1, float32.

    Box-Muller on pairs of 32-bit uniforms: the tails end at 6.7 standard deviations.
    """
    pairs = math.ceil(width / 2)
    counts = math.ceil(pairs / WORDS_PER_COUNT)
    words = _words(seed, purpose, first, count, counts).view(np.uint32)
    uniform = onto(torch.from_numpy(words.astype(np.float32)), device).add_(0.5).mul_(2.0**-32)
    pair = uniform.reshape(count, counts * WORDS_PER_COUNT, 2)
    # float32 rounds the largest words to 1 exactly; log(1) = 0 is a valid radius.
    radius = pair[..., 0].log().mul_(-2).sqrt_()
    angle = pair[..., 1] * (2 * math.pi)
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return both.flatten(1)[:, :width]


def device_normals(
    seed: int, purpose: str, first: int, count: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Other N(0, 1) numbers [count, width] of the same positions, float32, all but a key of each made on the device.

    Box-Muller on 31 hashed bits an angle and a radius: the tails end at 6.6 standard deviations.
    """
    pairs = math.ceil(width / 2)
    uniform = random_bits(keys(seed, purpose, first, count, device), 2 * pairs).float().add_(0.5).mul_(2.0**-31)
    radius = uniform[:, :pairs].log().mul_(-2).clamp_(min=0).sqrt_()
    angle = uniform[:, pairs:] * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :width]


def uniforms(seed: int, purpose: str, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """U[0, 1) numbers [count] of the samples at positions first .. first + count - 1, float32 of 24 random bits."""
    words = _words(seed, purpose, first, count, 1)[::WORDS_PER_COUNT]
    return onto(torch.from_numpy((words >> np.uint64(40)).astype(np.float32)).mul_(2.0**-24), device)


def keys(seed: int, purpose: str, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words random in all bits [count], int64, of the samples at positions first .. first + count - 1."""
    words = _words(seed, purpose, first, count, 1)[::WORDS_PER_COUNT]
    return onto(torch.from_numpy(words.view(np.int64).copy()), device)


def _words(seed: int, purpose: str, first: int, count: int, counts: int) -> np.ndarray:
    """uint64 [count * counts * WORDS_PER_COUNT]: `counts` steps of the counter for each sample."""
    generator = np.random.Philox(key=[derive_seed(seed, purpose), 0], counter=[first * counts, 0, 0, 0])
    return generator.random_raw(count * counts * WORDS_PER_COUNT)
