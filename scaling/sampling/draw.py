"""How samples are drawn: the choices of a command or of a run, in one object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from scaling.config.methods import PARTS
from scaling.config.recipes import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.run.spec import RunSpec
from scaling.sampling.evaluations import sampler_steps, teacher_evaluations

Sampler = Literal["heun", "ddim", "student", "segments", "flow_map"]


@dataclass(frozen=True)
class Draw:
    """How samples are drawn from a network.

    sampler: of a teacher Heun's method or DDIM (Euler's), of a student that of its kind. guidance: strength, 1: none.
    guidance_sigma: noise levels outside which a teacher is not guided (Kynkaanniemi et al. 2024), None for all.
    autoguided: whether the direction of guidance comes from another network, and not from missing labels (Karras et al.
    2024). intermediate_t: of a student's second step. seed: key of all noise; image i depends on it and on i alone.
    batch: images a pass.
    """

    steps: int
    sampler: Sampler
    guidance: float = 1.0
    guidance_sigma: tuple[float, float] | None = None
    autoguided: bool = False
    intermediate_t: float = 1.1
    seed: int = 0
    batch: int = 250

    @property
    def nfe(self) -> int:
        """Evaluations a sample, a guided one counted twice where it is guided by another or by missing labels."""
        if self.sampler == "heun":
            return teacher_evaluations(self.steps, self.guidance)
        return self.steps * (2 if self.sampler == "ddim" and self.guidance != 1 else 1)


def draw_of(spec: RunSpec, steps: int | None = None) -> Draw:
    """How a run's sampling section says, in `steps` steps; None: the first number of steps there."""
    sampling = spec.sampling
    chosen = steps or next(iter(sampler_steps(spec)))
    shared = Draw(chosen, "student", intermediate_t=sampling.intermediate_t, seed=sampling.seed, batch=sampling.batch)
    if not isinstance(spec.recipe, StudentRecipe):
        return replace(shared, sampler="heun", guidance=sampling.teacher_guidance)
    if spec.recipe.segments > 1:
        if chosen != spec.recipe.segments:
            raise ConfigError(
                f"--steps {chosen}: {spec.name()} was trained in {spec.recipe.segments} segments, which are its steps: "
                "leave it out"
            )
        shared = replace(shared, sampler="segments")
    elif chosen > 2:
        raise ConfigError(f"--steps {chosen}: a consistency model is sampled in 1 or 2 steps")
    elif spec.recipe.flow_map:
        shared = replace(shared, sampler="flow_map")
    if chosen > 1 and PARTS[spec.method].one_step:
        raise ConfigError(f"--steps {chosen}: {spec.name()} is a generator of one step: choose 1")
    if spec.recipe.guidance is None:
        return shared
    if chosen not in sampling.student_guidance:
        raise ConfigError(
            f"--steps {chosen}: the run's sampling.student_guidance has no strength for it, only for steps "
            f"{', '.join(map(str, sampling.student_guidance))}"
        )
    return replace(shared, guidance=sampling.student_guidance[chosen])


def changed(
    draw: Draw,
    spec: RunSpec,
    *,
    guidance: float | None = None,
    interval: tuple[float, float] | None = None,
    sampler: Sampler | None = None,
    autoguided: bool = False,
    intermediate_t: float | None = None,
    seed: int | None = None,
    batch: int | None = None,
) -> Draw:
    """The draw with what a user chose; ConfigError names the option that the network does not know."""
    student = isinstance(spec.recipe, StudentRecipe)
    if student:
        if intermediate_t is not None and draw.sampler == "segments":
            raise ConfigError(f"--intermediate-t: {spec.name()} goes through the ends of its segments: leave it out")
        for option, given in (("--sampler", sampler), ("--guidance-interval", interval), ("--autoguide", autoguided)):
            if given:
                raise ConfigError(f"{option}: is for teachers, and {spec.name()} is a consistency model: leave it out")
    elif intermediate_t is not None:
        raise ConfigError(f"--intermediate-t: is for consistency models, and {spec.name()} is a teacher: leave it out")
    if guidance is not None:
        _check_guidance(spec, guidance, autoguided=autoguided)
    elif autoguided and draw.guidance == 1:
        raise ConfigError("--autoguide: needs --guidance above 1, how far to go away from that network")
    given = {"guidance": guidance, "guidance_sigma": interval, "sampler": sampler, "intermediate_t": intermediate_t}
    given |= {"seed": seed, "batch": batch}
    kept = {key: value for key, value in given.items() if value is not None}
    return replace(draw, autoguided=autoguided, **kept)  # type: ignore[arg-type]


def _check_guidance(spec: RunSpec, guidance: float, *, autoguided: bool) -> None:
    recipe = spec.recipe
    if isinstance(recipe, StudentRecipe):
        if recipe.guidance is None:
            raise ConfigError(f"--guidance {guidance}: {spec.name()} was distilled without guidance: leave it out")
        low, high = recipe.guidance
        if not low <= guidance <= high:
            raise ConfigError(
                f"--guidance {guidance}: the student saw strengths from {low} to {high}: choose one inside"
            )
    elif guidance != 1 and not autoguided:
        if not spec.network_config().num_classes:
            raise ConfigError(f"--guidance {guidance}: the network knows no classes: leave it out, or give --autoguide")
        if not recipe.label_dropout:  # type: ignore[union-attr]
            raise ConfigError(
                f"--guidance {guidance}: the teacher never saw a sample without its label (teacher.label_dropout 0): "
                "leave it out, or give --autoguide"
            )
