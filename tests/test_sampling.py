"""Samplers on Gaussian data, where the flow is known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.network import SIGMA_DATA, T_MAX
from scaling.sampling.evaluations import teacher_evaluations
from scaling.sampling.samplers import edm_times, sample_ddim, sample_student, sample_teacher
from tests.closed_forms import Gaussian

S = 0.3


GAUSSIAN = Gaussian(S)
teacher_f, student_f = GAUSSIAN.teacher(), GAUSSIAN.student()


def noise(seed: int = 0, count: int = 4) -> Tensor:
    return SIGMA_DATA * torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_heun_converges_at_second_order_to_the_exact_flow() -> None:
    """The exact flow maps z at t_max to z S / sqrt(v); halving the step divides the error by about four."""
    z = noise()
    t_max = torch.tensor(T_MAX, dtype=torch.float64)
    want = z * S / GAUSSIAN.variance(t_max).sqrt() / t_max.sin()  # the sampler starts at x_sigma = z sigma_max / sd
    errors = [(sample_teacher(teacher_f, z, steps) - want).abs().max().item() for steps in (20, 40, 80, 160)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.35)
    assert errors[2] / errors[3] == pytest.approx(4, rel=0.35)
    assert errors[3] < 1e-3


def test_ddim_converges_at_first_order_to_the_exact_flow() -> None:
    """It starts at x_t itself; halving the step halves the error."""
    z = noise()
    t_max = torch.full((len(z),), T_MAX, dtype=torch.float64)
    want = GAUSSIAN.flow(z, t_max, torch.zeros_like(t_max))
    errors = [(sample_ddim(teacher_f, z, steps) - want).abs().max().item() for steps in (40, 80, 160, 320)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1, 1, 1], abs=0.12)


def test_number_of_evaluations() -> None:
    """Heun costs two evaluations a step and one in the last."""
    calls = []

    def counting(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t[0].item())
        return teacher_f(x, t)

    sample_teacher(counting, noise(), 32)
    assert len(calls) == teacher_evaluations(32) == 63
    assert teacher_evaluations(32, 1.4) == 2 * 63
    assert calls[0] == pytest.approx(T_MAX)


def test_times_of_edm() -> None:
    """From sigma 80 to 0.002, then 0, and strictly falling."""
    times = edm_times(32)
    assert (SIGMA_DATA * times[0].tan()).item() == pytest.approx(80)
    assert (SIGMA_DATA * times[-2].tan()).item() == pytest.approx(0.002)
    assert times[-1] == 0
    assert (times.diff() < 0).all()


def test_one_step_of_an_exact_student_is_the_flow() -> None:
    """f(z, t_max) = z S / sqrt(v(t_max))."""
    z = noise()
    want = z * S / GAUSSIAN.variance(torch.tensor(T_MAX, dtype=torch.float64)).sqrt()
    torch.testing.assert_close(sample_student(student_f, z, noise(1), 1, 1.1), want, rtol=1e-12, atol=1e-14)


def test_two_steps_keep_the_distribution() -> None:
    """Re-noising an exact sample and jumping again gives samples of deviation S once more."""
    count = 20_000
    sample = sample_student(student_f, noise(0, count), noise(1, count), 2, 1.1)
    assert sample.std().item() == pytest.approx(S, rel=0.01)
    first = sample_student(student_f, noise(0, count), noise(1, count), 1, 1.1)
    assert not torch.allclose(sample, first)
