"""From a study to its runs: one per (size, method, seed), each after the run that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from models.family import Family, network_config
from scaling.config.methods import PARTS
from scaling.config.recipes import (
    ConsistencyRecipe,
    Method,
    ScdVsdRecipe,
    Student,
    StudentRecipe,
    Teacher,
    TeacherRecipe,
    VsdRecipe,
)
from scaling.config.study import Entry, StudyConfig
from scaling.config.validation import ConfigError
from scaling.evaluation.spaces.files import network_hashes
from scaling.run.spec import PlannedRun, RunData, RunSpec
from scaling.weights.folder import SavedModel
from scaling.weights.teacher import guide_weights, student_weights, teacher_weights


def expand(study: StudyConfig, family: Family, data: RunData) -> list[PlannedRun]:
    """All runs of a study, each after its parent, sizes in the order of the file.

    Reads the descriptions of weights at rest that teachers start from. Raises ConfigError.
    """
    runs: list[PlannedRun] = []
    at_rest = {size: teacher_weights(study, family, size) for size in study.sizes}
    for seed in study.seeds:
        for size in study.sizes:
            make = partial(_spec, study, family, data, size, seed)
            weights = at_rest[size]
            teacher = make("teacher", weights=weights)
            runs.append(PlannedRun(teacher, None, weights.folder if weights else None))
            made: dict[Method, RunSpec] = {"teacher": teacher}
            for method in sorted(set(study.methods) - {"teacher"}, key=partial(_rank, study.methods)):
                parents = [made[parent] for parent in PARTS[method].parents]
                start = student_weights(study, family, size, study.entry(method, size))
                made[method] = make(method, *parents, weights=start)
                runs.append(PlannedRun(made[method], parents[-1], start.folder if start else None))
            for name in study.variants:
                varied = study.variant(name, size)
                start = student_weights(study, family, size, varied)
                run = make(varied.method, teacher, varied=varied, weights=start)
                runs.append(PlannedRun(run, teacher, start.folder if start else None))
    return runs


def _rank(methods: Sequence[Method], method: Method) -> tuple[int, int]:
    """A method comes after those that it starts from, else in the order of the file."""
    return len(PARTS[method].parents), methods.index(method)


def _spec(
    study: StudyConfig,
    family: Family,
    data: RunData,
    size: str,
    seed: int,
    method: Method,
    teacher: RunSpec | None = None,
    student: RunSpec | None = None,
    *,
    weights: SavedModel | None = None,
    varied: Entry | None = None,
) -> RunSpec:
    recipe = varied.recipe if varied else study.recipe(method, size)
    # Without the place of its weights, which may be moved.
    if isinstance(recipe, Teacher):
        recipe = TeacherRecipe.model_validate(recipe.model_dump(exclude={"weights", "guide"}))
    elif isinstance(recipe, Student):
        recipe = ConsistencyRecipe.model_validate(recipe.model_dump(exclude={"weights"}))
    assert isinstance(recipe, TeacherRecipe | ConsistencyRecipe | VsdRecipe | ScdVsdRecipe), "the kinds of recipe"
    guided = isinstance(recipe, StudentRecipe) and recipe.guidance is not None
    told = isinstance(recipe, StudentRecipe) and recipe.flow_map
    network = weights.config if weights and method == "teacher" else family.size(size)
    guide = guide_weights(study, family, size) if guided else None
    strengths = {study.sampling_of(size).teacher_guidance, *study.evaluation.guidance}
    by_labels = (guided and guide is None) or strengths != {1}
    if by_labels and not network.num_classes:
        raise ConfigError(
            f"guidance: num_classes of size {size!r} of family {family.name!r} is 0, and guidance needs classes: "
            "remove guidance, sampling.teacher_guidance and evaluation.guidance, name a teacher.guide, or choose "
            "another family"
        )
    return RunSpec(
        method=method,
        variant=varied.variant if varied else None,
        size=size,
        seed=seed,
        precision=study.precision,
        network=network_config(
            {**network.describe(), "guidance": guided, "second_time": told}, f"size {size!r} for {method}"
        ).describe(),
        data=data,
        recipe=recipe,
        ema=study.ema_of(size),
        sampling=study.sampling_of(size),
        evaluation=study.evaluation.without_files(),
        max_nonfinite_steps=study.max_nonfinite_steps,
        weights=weights.sha256 if weights else None,
        teacher=teacher.identity() if teacher else None,
        student=student.identity() if student else None,
        guide=guide.sha256 if guide else None,
        weights_commit=weights.commit if weights else None,
        guide_commit=guide.commit if guide else None,
        networks=network_hashes(study.evaluation),
    )
