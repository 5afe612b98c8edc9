"""Power-function averages against their closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaling.training.ema import PowerEMA, power_exponent


class One(nn.Module):
    """A module with one number."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_of_edm2(sigma_rel: float, gamma: float) -> None:
    """The published exponents, and the width that they give: (g+1)^.5 (g+2)^-1 (g+3)^-.5."""
    g = power_exponent(sigma_rel)
    assert g == pytest.approx(gamma, abs=0.005)
    assert (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5 == pytest.approx(sigma_rel, rel=1e-10)


@pytest.mark.parametrize("power", [1, 2])
def test_average_of_a_known_path(power: int) -> None:
    """For theta = t^k the average is t^k (g+1)/(g+1+k), up to the step size."""
    module, steps = One(), 4000
    ema = PowerEMA(module, [0.1])
    for step in range(1, steps + 1):
        module.theta.data.fill_((step / steps) ** power)
        ema.update(module, step)
    g = power_exponent(0.1)
    assert ema.state(0.1)["theta"].item() == pytest.approx((g + 1) / (g + 1 + power), rel=1e-3)


def test_the_first_step_forgets_the_start() -> None:
    """beta is 0 at step 1."""
    module = One()
    ema = PowerEMA(module, [0.05, 0.1])
    module.theta.data.fill_(3.0)
    ema.update(module, 1)
    assert [ema.state(s)["theta"].item() for s in (0.05, 0.1)] == [3.0, 3.0]


def test_load_gives_the_state_back() -> None:
    """state -> load is the identity."""
    module = One()
    ema, other = PowerEMA(module, [0.05]), PowerEMA(module, [0.05])
    module.theta.data.fill_(2.0)
    ema.update(module, 1)
    other.load(0.05, ema.state(0.05))
    assert torch.equal(other.state(0.05)["theta"], ema.state(0.05)["theta"])


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3])
def test_impossible_widths_are_refused(sigma_rel: float) -> None:
    """The error says the range."""
    with pytest.raises(ValueError, match="out of range"):
        power_exponent(sigma_rel)
