"""A method as the trainer sees it: its networks by name, and the losses of a microbatch, each the gradient of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from models.trigflow import TrigFlowNet
from scaling.config.methods import FAKE, GUIDE, PARTS, STUDENT, TEACHER, NetworkName
from scaling.config.recipes import Method, Recipe, ScdVsdRecipe, StudentRecipe, VsdRecipe
from scaling.methods.batch import Batch, Losses
from scaling.methods.consistency import Distillation, Training
from scaling.methods.teacher import Diffusion
from scaling.methods.vsd import distillation_loss, fake_loss

Networks = Mapping[NetworkName, TrigFlowNet]


class Objective(Protocol):
    """A method of one loss, whose gradient is that of the one network in training."""

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """The loss of one microbatch at step number `step`, counted from 1."""
        ...


@dataclass(frozen=True)
class Turn:
    """One loss of a microbatch at step number `step`, from 1, and the network that takes its gradient.

    The gradient of a turn is taken before the next turn begins, whose batch holds the samples that it drew, if any.
    """

    network: NetworkName
    loss: Callable[[Networks, Batch, int], Losses]


def turns_of(method: Method, recipe: Recipe, frozen: Networks) -> tuple[Turn, ...]:
    """The losses of a microbatch, in order; of a distilled student `frozen` has its teacher and what guides that."""
    network, turns = PARTS[method].trained[0], []
    if not isinstance(recipe, VsdRecipe):
        objective = objective_of(method, recipe, frozen.get(TEACHER), frozen.get(GUIDE))
        turns.append(Turn(network, lambda nets, batch, step: objective.loss(nets[network], batch, step)))
    if isinstance(recipe, VsdRecipe | ScdVsdRecipe):
        weight = recipe.vsd_weight if isinstance(recipe, ScdVsdRecipe) else 1.0
        turns.append(Turn(STUDENT, lambda nets, batch, step: distillation_loss(nets, batch, weight)))
        turns.append(Turn(FAKE, lambda nets, batch, step: fake_loss(nets, batch)))
    return tuple(turns)


def proposals(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """P_mean and P_std of the times of further noise that a method's losses take, beside its own z and t."""
    if not isinstance(recipe, VsdRecipe | ScdVsdRecipe):
        return {}
    return {"vsd": (recipe.vsd_p_mean, recipe.vsd_p_std), "fake": (recipe.p_mean, recipe.p_std)}


def objective_of(
    method: Method, recipe: Recipe, teacher: TrigFlowNet | None, guide: TrigFlowNet | None = None
) -> Objective:
    """The one objective of a method, of sCD with VSD that of sCD."""
    if method == "teacher":
        return Diffusion()
    assert isinstance(recipe, StudentRecipe), "every other method has a student's recipe"
    if method == "sct":
        return Training(recipe)
    assert method in ("scd", "scd_vsd"), f"{method} has other losses"
    assert teacher is not None, "a distilled run has its teacher"
    return Distillation(recipe, teacher, guide)
