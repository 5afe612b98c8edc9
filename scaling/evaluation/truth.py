"""What is true of the known mixture at fixed points: where its flow leads them, and its ideal velocities.

Samples of a run are held against what the exact flow makes of the same noise, and its network against the exact
functions at points x_t of a few times t. It separates what a Frechet distance mixes: the teacher's error, that of its
distillation, and that of sampling.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_pipeline.arrays import load_arrays
from models.network import T_MAX
from models.trigflow import SIGMA_DATA
from scaling.evaluation.mixture import MIXTURE_SHAPE, known_mixture
from scaling.run.randomness import derive_seed
from scaling.sampling.generate import noise_of

SEED, SECOND_T = 0, 1.1  # of the samples that are held against the truth, and where their second step begins
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, T_MAX)
POINTS = 48  # x_t at each of the times
FLOOR = 1e-8  # to which the truth is solved
ARRAYS = ("one_step", "two_steps", "points", "velocities", "leads")


@dataclass(frozen=True)
class Truth:
    """All float64. one_step, two_steps [N, D]: the exact samples of seeds 0 .. N-1, one and two steps from the noise.

    points [T, B, D]: x_t at the times; velocities: the ideal dx_t/dt there; leads: where the flow leads them.
    """

    one_step: Tensor
    two_steps: Tensor
    points: Tensor
    velocities: Tensor
    leads: Tensor

    def to_bytes(self) -> bytes:
        """An .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name).numpy() for name in ARRAYS})
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read what `to_bytes` wrote. DataError names a file that is none."""
        return cls(*map(torch.from_numpy, load_arrays(path, *ARRAYS)))


def truth_name(samples: int) -> str:
    """The stem of the file for N samples."""
    return f"reference-truth-{samples}"


def find_truth(samples: int) -> Truth:
    """Solve for N samples: some seconds of float64."""
    mixture, width = known_mixture(), math.prod(MIXTURE_SHAPE)
    noise = partial(noise_of, SEED, np.arange(samples), MIXTURE_SHAPE, torch.device("cpu"))
    start, second, zero = (torch.full((samples,), t, dtype=torch.float64) for t in (T_MAX, SECOND_T, 0.0))
    first = mixture.flow(noise("sample").double().flatten(1), start, zero)
    again = math.cos(SECOND_T) * first + math.sin(SECOND_T) * noise("renoise").double().flatten(1)
    generator = torch.Generator().manual_seed(derive_seed("truth"))
    x0 = mixture.draw(len(TIMES) * POINTS, generator)
    z = SIGMA_DATA * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    t = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(POINTS)
    x_t = t.cos()[:, None] * x0 + t.sin()[:, None] * z
    shape = (len(TIMES), POINTS, width)
    return Truth(
        first,
        mixture.flow(again, second, zero),
        x_t.reshape(shape),
        mixture.velocity(x_t, t).reshape(shape),
        mixture.flow(x_t, t, 0 * t).reshape(shape),
    )


def relative_error(found: Tensor, true: Tensor) -> tuple[float, float]:
    """The root mean square of found - true [N, D] over sigma_data, and its standard error over the N."""
    squares = (found.double() - true).square().mean(1) / SIGMA_DATA**2
    value = squares.mean().sqrt().item()
    spread = squares.std().item() / math.sqrt(len(squares))
    return value, spread / (2 * value) if value else 0.0
