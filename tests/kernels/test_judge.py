"""The judge judged: its truth against torch's own derivatives, its bounds against results that are honest and not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import LAYOUTS, SPECS, Case, Spec, lay
from tests.kernels.judge import Truth, gradients, plain_jvp, ratio, repeat_heads

CPU = torch.device("cpu")
SOME = ("length 1", "length 13", "causal 5 of 64", "4 heads of 2", "scale -0.25", "width 40 to 24", "edge of overflow")


def softmax_attention(case: Case) -> Callable[..., Tensor]:
    """(q, k, v) -> plain softmax attention with the scale, mask and groups of a case."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
        bias = torch.zeros(q.shape[2], k.shape[2], dtype=q.dtype)
        if case.causal:
            bias = bias.masked_fill(torch.arange(k.shape[2]) > torch.arange(q.shape[2])[:, None], -torch.inf)
        return torch.softmax(case.scale * q @ k.mT + bias, -1) @ v

    return attend


@pytest.mark.parametrize("name", SOME)
def test_the_truth_is_torchs_forward_derivative(name: str) -> None:
    """Value and tangent equal torch.func.jvp of plain softmax attention in float64."""
    case = SPECS[name].draw(torch.float64, CPU)
    truth = Truth(case)
    want = torch.func.jvp(softmax_attention(case), case.six[:3], case.six[3:])
    torch.testing.assert_close((truth.out, truth.tangent), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", SOME[:-1])
def test_the_gradients_are_torchs_reverse_over_forward(name: str) -> None:
    """Gradients through value and tangent equal autograd over torch.func.jvp."""
    case = SPECS[name].draw(torch.float64, CPU)
    grad, grad_tangent = case.cotangents()
    leaves = [x.detach().clone().requires_grad_() for x in case.six if x is not None]
    results = torch.func.jvp(softmax_attention(case), tuple(leaves[:3]), tuple(leaves[3:]))
    loss = (grad * results[0]).sum() + (grad_tangent * results[1]).sum()
    torch.testing.assert_close(
        gradients(case, grad, grad_tangent), list(torch.autograd.grad(loss, leaves)), rtol=1e-10, atol=1e-11
    )


def test_lse_and_mean_have_their_meaning() -> None:
    """lse is the logarithm of the sum of e^S, mean the average of dS under the weights."""
    case = SPECS["length 13"].draw(torch.float64, CPU)
    truth = Truth(case)
    q, k, _, tq, tk, _ = truth.wide
    weights = (case.scale * q @ k.mT - truth.lse[..., None]).exp()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(truth.lse), rtol=1e-12, atol=0)
    ds = case.scale * (tq @ k.mT + q @ tk.mT)
    torch.testing.assert_close((weights * ds).sum(-1), truth.mean, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(plain_jvp(*truth.wide, case.scale, False), (truth.out, truth.tangent))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_correctly_rounded_result_passes_and_one_that_is_off_does_not(dtype: torch.dtype) -> None:
    """The truth rounded once uses at most half of the bound; half logits do not pass."""
    case = SPECS["sharp rows"].draw(dtype, CPU)
    truth = Truth(case)
    assert ratio(truth.out.to(dtype), truth.out, truth.off_out) <= 0.5
    assert ratio(truth.tangent.to(dtype), truth.tangent, truth.off_tangent) <= 0.5
    q, k, v, _, _, tv = truth.wide
    coarse = torch.float16 if dtype == torch.float32 else dtype
    p = torch.softmax((case.scale * q @ k.mT).to(coarse).double(), -1)
    assert ratio(p @ v, truth.out, truth.off_out) > 1.5
    assert ratio((p * truth.c) @ v + p @ tv, truth.tangent, truth.off_tangent) > 1.5


def test_ratio_knows_zero_bounds_and_what_is_not_finite() -> None:
    """0 / 0 is right, anything off a zero bound and NaN are infinitely wrong, a wrong shape is an error."""
    zero, nan = torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, torch.nan])
    assert ratio(zero, zero, zero) == 0
    assert ratio(nan, zero, zero + 1) == torch.inf
    assert ratio(zero + 1, zero, zero) == torch.inf
    assert ratio(zero - torch.inf, zero, zero + 1) == torch.inf
    with pytest.raises(AssertionError, match="shape"):
        ratio(zero[:1], zero, zero)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_the_numbers_and_surround_them_with_nan(layout: str) -> None:
    """A layout changes strides or storage, not values; what is not the tensor's own is NaN."""
    x = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    y = lay(x, layout)
    if "expanded" in layout:
        assert 0 in y.stride()
        return
    assert torch.equal(x, y)
    home = torch.empty(0).set_(y.untyped_storage())
    assert (y.stride() != x.stride()) or y.storage_offset() == 1
    assert home.isnan().sum() == home.numel() - x.numel()


def test_names_of_cases_differ_so_that_their_draws_do() -> None:
    """Each case is found by its name, and no two share numbers."""
    draws = [spec.draw(torch.float64, CPU).v.flatten()[0].item() for spec in SPECS.values() if spec.make is None]
    assert len(set(draws)) == len(draws)
    assert isinstance(SPECS["length 13"], Spec)
