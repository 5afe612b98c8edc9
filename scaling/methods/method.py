"""Which objective a run trains with."""

from __future__ import annotations

from typing import Protocol

from models.trigflow import TrigFlowNet
from scaling.config.sections import Method, Recipe, StudentRecipe
from scaling.methods.batch import Batch, Losses
from scaling.methods.consistency import Distillation, Training
from scaling.methods.teacher import Diffusion

DISTILLED: tuple[Method, ...] = ("scd", "vsd")  # trained beside their frozen teacher


class Objective(Protocol):
    """What a trainer asks of a method."""

    def loss(self, net: TrigFlowNet, batch: Batch, step: int) -> Losses:
        """The loss of one microbatch at step number `step`, counted from 1."""
        ...


def objective_of(method: Method, recipe: Recipe, teacher: TrigFlowNet | None) -> Objective:
    """The objective of a run; `teacher`: the frozen network of a method in DISTILLED."""
    if method == "teacher":
        return Diffusion()
    assert isinstance(recipe, StudentRecipe), "every other method has a student's recipe"
    if method == "sct":
        return Training(recipe)
    assert method == "scd", f"{method} is refused before training"
    assert teacher is not None, "a distilled run has its teacher"
    return Distillation(recipe, teacher)
