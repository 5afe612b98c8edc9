"""The path of flash-attn on a GPU, skipped where the package is not installed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.attention import attention
from tests.kernels.cases import Spec
from tests.kernels.judge import Truth, ratio
from tests.kernels.routes import label

pytestmark = pytest.mark.gpu
pytest.importorskip("flash_attn", reason="needs flash-attn: pip install --no-build-isolation 'trigscale[flash]'")
SPEC = Spec("flash", "FLASH", 257, 301, 64, 64, batch=2, heads=4, groups=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=label)
@pytest.mark.parametrize("width", [64, 72, 128])
def test_its_values_keep_the_bounds_of_ours(device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Full, and causal for as many queries as keys; gradients are those of `triton` but for rounding, repeatable."""
    for spec in (replace(SPEC, d=width, dv=width), replace(SPEC, d=width, dv=width, nk=257, causal=True)):
        case = spec.draw(dtype, device)
        q, k, v = (x.detach().requires_grad_() for x in case.six[:3] if x is not None)
        options = {"scale": case.scale, "causal": case.causal}
        out = attention(q, k, v, path="flash", **options)
        truth = Truth(case)
        assert ratio(out.detach(), truth.out, truth.off_out) <= 1
        grad = torch.randn_like(out)
        first, again = (torch.autograd.grad(out, (q, k, v), grad, retain_graph=True) for _ in range(2))
        ours = torch.autograd.grad(attention(q, k, v, path="triton", **options), (q, k, v), grad)
        for a, b, c in zip(first, again, ours, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c, atol=0.02 * float(c.abs().max()), rtol=0.02)
