"""Both optimizers against their formulas in float64, and what they hold beside the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from scaling.config.recipes import OptimizerName
from scaling.training.sharding.engine import ADAM, MOMENTS, first_state, make_optimizer

LR, STEPS = 0.01, 12


def by_hand(kind: OptimizerName, x: Tensor, gradients: list[Tensor]) -> Tensor:
    """Kingma and Ba 2015; Liu et al. 2020, Algorithm 2, whose rectified steps begin where rho_t > 5, as torch's do."""
    (b1, b2), eps = ADAM["betas"], ADAM["eps"]
    m, v, most = torch.zeros_like(x), torch.zeros_like(x), 2 / (1 - b2) - 1
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        mean = m / (1 - b1**t)
        root = (v / (1 - b2**t)).sqrt()
        if kind == "adam":
            x = x - LR * mean / (root + eps)
            continue
        rho = most - 2 * t * b2**t / (1 - b2**t)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
            x = x - LR * r * mean / (root + eps / math.sqrt(1 - b2**t))
        else:
            x = x - LR * mean
    return x


@pytest.mark.parametrize("kind", ["adam", "radam"])
def test_steps_are_those_of_the_formula(kind: OptimizerName) -> None:
    """From the state that an engine gives it; after as many steps as momentum alone takes, and some more."""
    generator = torch.Generator().manual_seed(0)
    first, *gradients = torch.randn(STEPS + 1, 5, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(first.clone())
    optimizer = make_optimizer(kind, [weight])
    optimizer.state[weight] = first_state(kind, weight)
    for group in optimizer.param_groups:
        group["lr"] = LR
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), by_hand(kind, first, gradients), rtol=1e-12, atol=1e-12)
    assert set(optimizer.state[weight]) == {"step", *MOMENTS}


def test_a_state_goes_on() -> None:
    """The moments and the number of steps are all that RAdam knows."""
    first, *gradients = torch.randn(STEPS + 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = [nn.Parameter(first.clone()) for _ in range(2)]
    made = [make_optimizer("radam", [weight]) for weight in weights]
    for weight, optimizer in zip(weights, made, strict=True):
        optimizer.state[weight] = first_state("radam", weight)
    for n, gradient in enumerate(gradients):
        if n == 4:  # before its first rectified step
            again = make_optimizer("radam", [weights[1]])
            state = made[1].state[weights[1]]
            again.state[weights[1]] = first_state("radam", weights[1]) | {key: state[key].clone() for key in MOMENTS}
            again.state[weights[1]]["step"].fill_(n)
            made[1] = again
        for weight, optimizer in zip(weights, made, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)
