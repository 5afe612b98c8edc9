"""A method as the trainer sees it: its networks by name, and the losses of a microbatch, each the gradient of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from models.trigflow import TrigFlowNet
from scaling.config.methods import PARTS, NetworkName
from scaling.config.sections import Method, Recipe, StudentRecipe
from scaling.methods.batch import Batch, Losses
from scaling.methods.consistency import Distillation, Training
from scaling.methods.teacher import Diffusion

Networks = Mapping[NetworkName, TrigFlowNet]


class Objective(Protocol):
    """A method of one loss, whose gradient is that of the one network in training."""

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """The loss of one microbatch at step number `step`, counted from 1."""
        ...


@dataclass(frozen=True)
class Turn:
    """One loss of a microbatch at step number `step`, from 1, and the network that takes its gradient.

    The gradient of a turn is taken before the next turn begins.
    """

    network: NetworkName
    loss: Callable[[Networks, Batch, int], Losses]


def turns_of(method: Method, recipe: Recipe, teacher: TrigFlowNet | None) -> tuple[Turn, ...]:
    """The losses of a microbatch, in order; `teacher`: the frozen network of a distilled student."""
    network, objective = PARTS[method].trained[0], objective_of(method, recipe, teacher)
    return (Turn(network, lambda nets, batch, step: objective.loss(nets[network], batch, step)),)


def objective_of(method: Method, recipe: Recipe, teacher: TrigFlowNet | None) -> Objective:
    """The objective of a method that trains one network."""
    if method == "teacher":
        return Diffusion()
    assert isinstance(recipe, StudentRecipe), "every other method has a student's recipe"
    if method == "sct":
        return Training(recipe)
    assert method == "scd", f"{method} is refused before training"
    assert teacher is not None, "a distilled run has its teacher"
    return Distillation(recipe, teacher)
