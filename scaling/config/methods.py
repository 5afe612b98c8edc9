"""What each method is made of: the networks that it holds, the runs that it comes after, what a step evaluates.

Plan, graph of runs, trainer and checkpoints all read it here; the losses themselves are in `scaling.methods`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scaling.config.recipes import Method

NetworkName = Literal["student", "fake", "teacher", "guide"]
STUDENT: NetworkName = "student"
FAKE: NetworkName = "fake"  # the score of the student's samples (VSD)
TEACHER: NetworkName = "teacher"
GUIDE: NetworkName = "guide"  # a weaker one, away from which a teacher is guided, where there is one (autoguidance)


@dataclass(frozen=True)
class Pass:
    """One evaluation of a network on all samples of a training step.

    tangent: with a JVP. gradient: a backward pass follows. guided: two evaluations where guidance is distilled.
    """

    network: NetworkName
    tangent: bool = False
    gradient: bool = False
    guided: bool = False


@dataclass(frozen=True)
class Parts:
    """A method without its losses.

    trained: networks with weights, moments and checkpoints of their own; the first is averaged, sampled and distilled.
    frozen: networks that it only evaluates. parents: methods of the same size and seed whose runs come before, the one
    that it starts from last. passes: of a step, in order. one_step: whether it makes a generator of one step alone.
    """

    trained: tuple[NetworkName, ...]
    passes: tuple[Pass, ...]
    frozen: tuple[NetworkName, ...] = ()
    parents: tuple[Method, ...] = ()
    one_step: bool = False

    @property
    def tangents(self) -> bool:
        """Whether a step carries tangents beside values."""
        return any(each.tangent for each in self.passes)


_CONSISTENCY = Pass(STUDENT, tangent=True, gradient=True)
_SCORE = Pass(TEACHER, guided=True)
# The paper says that the fake score is updated once per update of the generator; that the sample of the VSD loss is a
# pass of its own, beside that of the sCD loss, is our reading.
_VSD = (Pass(STUDENT, gradient=True), _SCORE, Pass(FAKE), Pass(FAKE, gradient=True))
PARTS: dict[Method, Parts] = {
    "teacher": Parts((TEACHER,), (Pass(TEACHER, gradient=True),)),
    "sct": Parts((STUDENT,), (_CONSISTENCY,), parents=("teacher",)),
    "scd": Parts((STUDENT,), (_SCORE, _CONSISTENCY), (TEACHER,), ("teacher",)),
    "vsd": Parts((STUDENT, FAKE), _VSD, (TEACHER,), ("teacher",), one_step=True),
    "scd_vsd": Parts((STUDENT, FAKE), (_SCORE, _CONSISTENCY, *_VSD), (TEACHER,), ("teacher", "scd")),
}


def is_distilled(method: Method) -> bool:
    """Whether a frozen teacher stands beside the training."""
    return TEACHER in PARTS[method].frozen
