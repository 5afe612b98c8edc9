"""Guided teachers: the combination in closed form."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.trigflow import SIGMA_DATA
from scaling.methods.batch import Batch
from scaling.methods.consistency import teacher_velocity
from scaling.methods.guidance import NO_LABEL, guided


class ByLabel(nn.Module):
    """F = x (3 + label) + t, so that F without a label is 2 x + t, and F_s = x (2 + s (1 + label)) + t."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, *, guidance: Tensor | None = None) -> Tensor:
        assert guidance is None  # a teacher has no such input
        self.labels.append(labels)
        return x * (3 + labels)[:, None, None, None] + t[:, None, None, None]


def batch(guidance: Tensor | None) -> Batch:
    """Four samples with labels 0 to 3."""
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 4, 1, 2, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(4, generator=generator, dtype=torch.float64)
    return Batch(x0, z, t, torch.arange(4), guidance=guidance)


def test_teacher_velocity_in_closed_form() -> None:
    """sd F_s with a strength of its own for each sample."""
    s = torch.tensor([1.0, 1.25, 1.5, 2.0], dtype=torch.float64)
    b, teacher = batch(s), ByLabel()
    slope, t = (2 + s * (1 + b.labels))[:, None, None, None], b.t[:, None, None, None]
    want = b.x_t * slope + SIGMA_DATA * t
    torch.testing.assert_close(teacher_velocity(teacher, b), want, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]
    (labels,) = teacher.labels  # one pass
    assert sorted(labels.tolist()) == [NO_LABEL] * 4 + [0, 1, 2, 3]


def test_strength_one_is_no_guidance() -> None:
    """F_none + 1 (F - F_none) = F."""
    plain = teacher_velocity(ByLabel(), batch(None))  # type: ignore[arg-type]
    one = teacher_velocity(ByLabel(), batch(torch.ones(4, dtype=torch.float64)))  # type: ignore[arg-type]
    torch.testing.assert_close(one, plain, rtol=1e-12, atol=1e-14)


def test_a_weaker_network_guides_in_the_place_of_no_labels() -> None:
    """sd (F_guide + s (F - F_guide)), each network asked once with the labels themselves (Karras et al. 2024)."""
    s = torch.tensor([1.0, 1.25, 1.5, 2.0], dtype=torch.float64)
    b, teacher, guide = batch(s), ByLabel(), ByLabel()
    weaker = replace(b, labels=b.labels // 2)
    guide.forward = lambda x, t, labels: teacher.forward(x, t, labels // 2)  # type: ignore[method-assign, assignment]
    got = teacher_velocity(teacher, b, guide)  # type: ignore[arg-type]
    strong, weak = (teacher_velocity(ByLabel(), replace(one, guidance=None)) for one in (b, weaker))  # type: ignore[arg-type]
    torch.testing.assert_close(got, weak + s[:, None, None, None] * (strong - weak), rtol=1e-12, atol=1e-14)
    assert sorted(map(len, teacher.labels)) == [4, 4]


def test_outside_its_noise_levels_a_teacher_is_not_guided() -> None:
    """Above the low end and up to the high one it is, as in sampling; the strength that a student is told stays."""
    sigma = torch.tensor([0.1, 0.2, 1.5, 2.0], dtype=torch.float64)
    s = torch.full((4,), 1.5, dtype=torch.float64)
    b = replace(batch(s), t=torch.atan(sigma / SIGMA_DATA), guidance_sigma=(0.2 + 1e-9, 1.5 + 1e-9))
    inside, outside = (teacher_velocity(ByLabel(), replace(b, guidance=g, guidance_sigma=None)) for g in (s, None))  # type: ignore[arg-type]
    got = teacher_velocity(ByLabel(), b)  # type: ignore[arg-type]
    torch.testing.assert_close(got, torch.stack([outside[0], outside[1], inside[2], outside[3]]))
    assert not torch.allclose(inside[3], outside[3])
    assert b.guidance is s


def test_strength_zero_forgets_the_label() -> None:
    """F_none alone."""
    b = batch(None)
    zero = torch.zeros(4, dtype=torch.float64)
    got = guided(ByLabel(), b.x0, b.t, b.labels, zero)
    torch.testing.assert_close(got, 2 * b.x0 + b.t[:, None, None, None], rtol=1e-12, atol=1e-14)
