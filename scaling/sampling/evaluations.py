"""How often a sampler evaluates the network, from a run's description alone. Without torch."""

from __future__ import annotations

from scaling.run.spec import RunSpec


def teacher_evaluations(steps: int, guidance: float = 1.0) -> int:
    """NFE of `scaling.sampling.samplers.sample_teacher`: a guided evaluation counts as two."""
    return (2 * steps - 1) * (1 if guidance == 1 else 2)


def sampler_steps(spec: RunSpec) -> dict[int, int]:
    """The numbers of steps a run is sampled with, and the network evaluations (NFE) of each."""
    if spec.method == "teacher":
        sampling = spec.sampling
        return {sampling.teacher_steps: teacher_evaluations(sampling.teacher_steps, sampling.teacher_guidance)}
    return {steps: steps for steps in spec.sampling.student_steps}
