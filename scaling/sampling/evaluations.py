"""How many samples a run draws, and how often a sampler evaluates the network, from its description alone."""

from __future__ import annotations

from scaling.config.methods import PARTS
from scaling.config.recipes import StudentRecipe
from scaling.config.sections import student_steps
from scaling.run.spec import RunSpec

LOOKED_AT = 100  # samples of a run that is not judged


def samples_of(spec: RunSpec) -> int:
    """Samples of a set: N of the metrics, or a few to look at."""
    return spec.evaluation.samples if spec.evaluation.metrics else LOOKED_AT


def sets_of(spec: RunSpec) -> int:
    """How many sets of samples a run draws for each number of steps."""
    return spec.evaluation.repeats if spec.evaluation.metrics else 1


def teacher_evaluations(steps: int, guidance: float = 1.0) -> int:
    """NFE of `scaling.sampling.samplers.sample_teacher`: a guided evaluation counts as two."""
    return (2 * steps - 1) * (1 if guidance == 1 else 2)


def swept(spec: RunSpec) -> dict[tuple[int, float], int]:
    """NFE by the number of steps and the guidance strength, of what is judged at strengths of evaluation.guidance.

    The teacher is, and students that were distilled with guidance are.
    """
    if isinstance(spec.recipe, StudentRecipe):
        known = spec.recipe.guidance is not None
        found = {(n, s): nfe for n, nfe in sampler_steps(spec).items() for s in spec.evaluation.guidance}
        return found if known else {}
    steps = spec.sampling.teacher_steps
    return {(steps, s): teacher_evaluations(steps, s) for s in spec.evaluation.guidance}


def sampler_steps(spec: RunSpec) -> dict[int, int]:
    """The numbers of steps a run is sampled with, and the network evaluations (NFE) of each."""
    if spec.method == "teacher":
        sampling = spec.sampling
        return {sampling.teacher_steps: teacher_evaluations(sampling.teacher_steps, sampling.teacher_guidance)}
    assert isinstance(spec.recipe, StudentRecipe), "every other method has a student's recipe"
    wanted = student_steps(spec.recipe, spec.sampling)
    return {steps: steps for steps in wanted if steps == 1 or not PARTS[spec.method].one_step}
