"""What the loop asks of a strategy: how one network is trained on the devices of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal

from torch import Tensor, nn

from models.trigflow import TrigFlowNet
from scaling.training.pieces import Piece
from scaling.training.world import World

ADAM = {"betas": (0.9, 0.99), "eps": 1e-11}  # of the paper, for all runs
MOMENTS: tuple[Literal["exp_avg"], Literal["exp_avg_sq"]] = ("exp_avg", "exp_avg_sq")


class Engine(ABC):
    """One network in training under one strategy, its weights and moments in float32; autocast computes in less.

    net: what is called, with the arguments of `TrigFlowNet.forward`. All methods are collective: every rank calls them
    in the same order.
    """

    net: nn.Module

    def __init__(self, module: TrigFlowNet, world: World) -> None:
        """`module`: the whole network, equal on all ranks; it belongs to the engine from here on."""
        self.module, self.world = module, world

    @abstractmethod
    def micro(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of one microbatch; gradients are averaged over ranks in the last."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, which the caller has divided by the number of microbatches."""

    @abstractmethod
    def grad_norm(self) -> Tensor:
        """L2 norm of the whole gradient, averaged over ranks and still scaled; float32, 0-d, the same on all ranks."""

    @abstractmethod
    def first_nonfinite(self) -> str | None:
        """The first parameter, in the network's order, whose gradient is not finite on some rank; None: all are."""

    @abstractmethod
    def step(self, lr: float, scale: float) -> None:
        """Adam on the gradient divided by `scale`, then forced weight normalisation; the gradient is gone after."""

    @abstractmethod
    def discard(self) -> None:
        """Drop the gradient: this step is skipped."""

    @abstractmethod
    def weights(self) -> Mapping[str, Piece]:
        """The master weights of this rank by the names of TrigFlowNet, views that follow training to its end."""

    @abstractmethod
    def moments(self) -> Mapping[str, Mapping[str, Piece]]:
        """{"exp_avg": ..., "exp_avg_sq": ...}: Adam's moments, such views too; zeros before the first step."""

    @abstractmethod
    def loaded(self, updates: int) -> None:
        """Weights, moments and buffers were overwritten through the pieces, after `updates` steps of Adam."""

    def buffers(self) -> Mapping[str, Piece]:
        """The buffers of the network, whole on every rank."""
        rank, size = self.world.rank, self.world.size
        return {n: Piece(b.flatten(), 0, tuple(b.shape), rank, size) for n, b in self.module.named_buffers()}
