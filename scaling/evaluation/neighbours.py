"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), without an N x N matrix.

The manifold of a set is the union of balls about its points that reach to the k-th nearest other point of the set.
Distances are computed in float64, a block of rows at a time: 50,000 against 50,000 points of 2,048 features hold
2 GiB. A perfect model does not reach 1: `perfect_coverage` is its coverage, its density is 1, and its precision and
recall depend on D (.6 at k = 3, D = 64): report real against real beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROWS = 1024


@dataclass(frozen=True)
class Neighbours:
    """The four shares of one set of samples, and the number of neighbours."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def compare(made: np.ndarray, real: np.ndarray, k: int, device: torch.device | str = "cpu") -> Neighbours:
    """The four of features [N, D] against real features [M, D]. ValueError: other dimensions, or no k neighbours."""
    if made.shape[1:] != real.shape[1:]:
        raise ValueError(f"{made.shape[1]} features against {real.shape[1]}")
    if min(len(made), len(real)) <= k:
        raise ValueError(f"{min(len(made), len(real))} samples have no {k} neighbours: give more, or a smaller k")
    centre = real.mean(0, dtype=np.float64)  # the smaller the numbers, the less is lost in |x|^2 + |y|^2 - 2 x.y
    x, y = (torch.from_numpy(set_ - centre).to(device) for set_ in (made, real))
    reach_x, reach_y = _reach(x, k), _reach(y, k)
    inside, near = torch.zeros(len(x), dtype=torch.int64, device=device), []
    recalled = []
    for rows, squared in _blocks(y, x):
        within = squared < reach_y[rows, None]
        inside += within.sum(0)
        near.append(within.any(1))
        recalled.append((squared < reach_x).any(1))
    return Neighbours(
        precision=float((inside > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(inside.double().mean() / k),
        coverage=float(torch.cat(near).double().mean()),
        k=k,
    )


def perfect_coverage(real: int, made: int, k: int) -> float:
    """The expected coverage of a perfect model at any D: 1 - prod (N - 1 - i) / (N + M - 1 - i) over i < k, N real."""
    i = np.arange(k)
    return float(1 - np.prod((real - 1 - i) / (real + made - 1 - i)))


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of some rows of x [N, D] to all of y [M, D]."""
    square_y = (y * y).sum(1)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        squared = torch.addmm((part * part).sum(1)[:, None] + square_y, part, y.T, alpha=-2).clamp_(min=0)
        yield slice(start, start + len(part)), squared


def _reach(x: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other one, [N]."""
    parts = []
    for rows, squared in _blocks(x, x):
        index = torch.arange(rows.start, rows.stop, device=x.device)
        squared[index - rows.start, index] = torch.inf
        parts.append(squared.kthvalue(k, dim=1).values)
    return torch.cat(parts)
