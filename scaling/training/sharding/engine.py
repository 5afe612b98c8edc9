"""What the loop asks of a strategy: how one network is trained on the devices of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from models.trigflow import TrigFlowNet
from scaling.config.recipes import OptimizerName
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World

ADAM = {"betas": (0.9, 0.99), "eps": 1e-11}  # of the paper, for all runs and both optimizers
MOMENTS: tuple[Literal["exp_avg"], Literal["exp_avg_sq"]] = ("exp_avg", "exp_avg_sq")


def make_optimizer(kind: OptimizerName, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam, or Adam with rectified steps (RAdam, Liu et al. 2020), whose first ones are momentum alone.

    RAdam has no fused kernel: a tensor at a time, it needs no memory beyond its moments, which are Adam's.
    """
    if kind == "radam":
        return torch.optim.RAdam(parameters, foreach=False, **ADAM)
    return torch.optim.Adam(parameters, fused=True, **ADAM)


def first_state(kind: OptimizerName, tensor: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a tensor before its first step; RAdam reads the number of steps on the host."""
    device = tensor.device if kind == "adam" else torch.device("cpu")
    zeros = {moment: torch.zeros_like(tensor, requires_grad=False) for moment in MOMENTS}
    return {"step": torch.zeros((), device=device), **zeros}


class Engine(ABC):
    """One network in training under one strategy, its weights and moments in float32; autocast computes in less.

    net: what is called, with the arguments of `TrigFlowNet.forward`. All methods are collective: every rank calls them
    in the same order.
    """

    net: nn.Module
    settles = False  # whether its first gradient is summed over ranks in another order than all that follow

    def __init__(self, module: TrigFlowNet, world: World, kind: OptimizerName = "adam") -> None:
        """`module`: the whole network, equal on all ranks; it belongs to the engine from here on."""
        self.module, self.world = module, world
        self.kind: OptimizerName = kind
        self.names = [name for name, _ in module.named_parameters()]

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
    def gradients(self) -> dict[str, Tensor]:
        """What this rank holds of the averaged gradient, still scaled; of some parameters it may hold nothing."""

    def first_nonfinite(self) -> str | None:
        """The first parameter, in the network's order, whose gradient is not finite on some rank; None: all are."""
        gradients = self.gradients()
        bad = [name in gradients and not bool(gradients[name].isfinite().all()) for name in self.names]
        counts = self.world.total(torch.tensor(bad, dtype=torch.float32, device=self.world.device)).tolist()
        return next((name for name, count in zip(self.names, counts, strict=True) if count), None)

    @abstractmethod
    def step(self, lr: float, scale: float) -> None:
        """The optimizer on the gradient over `scale`, then forced weight normalisation; the gradient is gone after."""

    @abstractmethod
    def discard(self) -> None:
        """Drop the gradient: this step is skipped."""

    @abstractmethod
    def weights(self) -> Mapping[str, Piece]:
        """The master weights of this rank by the names of TrigFlowNet, views that follow training to its end."""

    @abstractmethod
    def moments(self) -> Mapping[str, Mapping[str, Piece]]:
        """{"exp_avg": ..., "exp_avg_sq": ...}: the optimizer's moments, such views too; zeros before the first step."""

    @abstractmethod
    def loaded(self, updates: int) -> None:
        """Weights, moments and buffers were overwritten through the pieces, after `updates` steps of the optimizer."""

    def buffers(self) -> Mapping[str, Piece]:
        """The buffers of the network, whole on every rank."""
        rank, size = self.world.rank, self.world.size
        return {n: Piece(b.flatten(), 0, tuple(b.shape), rank, size) for n, b in self.module.named_buffers()}


class AdamEngine(Engine):
    """What the strategies of torch share: gradients at the parameters, and an optimizer of torch's on them."""

    optimizer: torch.optim.Optimizer

    def prepare(self) -> None:
        """Make the optimizer, with moments of zero, once the parameters are those that are trained."""
        self.optimizer = make_optimizer(self.kind, self.module.parameters())
        for parameter in self.module.parameters():
            self.optimizer.state[parameter] = first_state(self.kind, parameter)

    @abstractmethod
    def piece(self, tensor: Tensor) -> Piece:
        """What this rank holds of a parameter, or of a tensor that lies on the ranks as one does."""

    @abstractmethod
    def force_weight_norm(self) -> None:
        """Normalise every stored weight (EDM2, section 2.3)."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @torch.no_grad()
    def step(self, lr: float, scale: float) -> None:
        gradients = list(self.gradients().values())
        if scale != 1 and gradients:
            torch._foreach_mul_(gradients, 1 / scale)  # pyright: ignore[reportPrivateImportUsage]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.discard()
        self.force_weight_norm()

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> Mapping[str, Piece]:
        return {name: self.piece(p) for name, p in self.module.named_parameters()}

    def moments(self) -> Mapping[str, Mapping[str, Piece]]:
        parameters = dict(self.module.named_parameters())
        state = self.optimizer.state
        return {moment: {n: self.piece(state[p][moment]) for n, p in parameters.items()} for moment in MOMENTS}

    def loaded(self, updates: int) -> None:
        for state in self.optimizer.state.values():
            state["step"].fill_(updates)
