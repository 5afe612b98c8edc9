"""What does dF/dt cost in accuracy, by forward mode and by differences, at each step and in each precision?

    PYTHONPATH=. python benchmarks/derivative.py > benchmarks/results/derivative-cpu.md

The network of nano s with random gains, at times of the proposal; the reference is forward mode in float64. Errors are
of cos t sin t sigma_d dF/dt, relative to its norm over the batch: a median over five batches. No timing.
"""

from __future__ import annotations

import platform
import statistics
from datetime import date

import torch

from models.trigflow import TrigFlowNet
from scaling.config.families import load_family
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.consistency import data_velocity
from scaling.methods.tangent import Derivative
from tests.models.networks import network as network_of

STEPS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
PRECISIONS = {"float64": None, "float32": None, "bf16": torch.bfloat16}
BATCHES, COUNT = 5, 16


def network(dtype: torch.dtype) -> TrigFlowNet:
    """Nano s as after training."""
    return network_of(dtype, load_family("nano").size("s"))


def batch(seed: int, dtype: torch.dtype) -> Batch:
    """Samples of white noise as data, and times of the paper's proposal."""
    generator = torch.Generator().manual_seed(seed)
    x0, z = torch.randn(2, COUNT, 4, 8, 8, generator=generator, dtype=torch.float64)
    t = draw_time(torch.randn(COUNT, generator=generator, dtype=torch.float64), -0.8, 1.6)
    labels = torch.arange(COUNT) % 10
    return Batch((x0 / 2).to(dtype), draw_noise(z).to(dtype), t.to(dtype), labels)


@torch.no_grad()
def slope(net: TrigFlowNet, one: Batch, derivative: Derivative) -> torch.Tensor:
    """The derivative, in float64."""
    factor = (one.t.cos() * one.t.sin())[:, None, None, None]
    return derivative.of(net, one, data_velocity(one), factor)[2].double()


def error(precision: str, derivative: Derivative) -> float:
    """The median relative error over the batches."""
    dtype, half = torch.float64 if precision == "float64" else torch.float32, PRECISIONS[precision]
    exact, net, errors = network(torch.float64), network(dtype), []
    for seed in range(BATCHES):
        want = slope(exact, batch(seed, torch.float64), Derivative())
        with torch.autocast("cpu", half, enabled=half is not None):
            got = slope(net, batch(seed, dtype), derivative)
        errors.append(((got - want).norm() / want.norm()).item())
    return statistics.median(errors)


def main() -> None:
    """Print the table."""
    print("# Errors of dF/dt: forward mode and differences\n")
    machine = f"torch {torch.__version__}, {platform.machine()}"
    print(f"`PYTHONPATH=. python benchmarks/derivative.py`, {date.today()}, {machine}, seeds 0 to {BATCHES - 1}.\n")
    print("Relative error of cos t sin t sigma_d dF/dt against forward mode in float64, nano s with gains 0.7.\n")
    print("| derivative | step, radians |", " | ".join(PRECISIONS), "|\n|---|---|" + "---|" * len(PRECISIONS))
    for kind in ("rearranged", "plain"):
        print(f"| {kind} | - |", " | ".join(f"{error(name, Derivative(kind)):.1e}" for name in PRECISIONS), "|")
    for kind in ("central", "backward"):
        for step in STEPS:
            cells = [f"{error(name, Derivative(kind, step)):.1e}" for name in PRECISIONS]
            print(f"| {kind} | {step:g} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
