"""From a study to its runs: one per (size, method, seed), each after the run that it starts from."""

from __future__ import annotations

from functools import partial

from models.family import Family, network_config
from scaling.config.sections import (
    ConsistencyRecipe,
    Method,
    Student,
    StudentRecipe,
    Teacher,
    TeacherRecipe,
    VsdRecipe,
)
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.evaluation.spaces.files import network_hashes
from scaling.run.spec import PlannedRun, RunData, RunSpec
from scaling.weights.folder import SavedModel
from scaling.weights.teacher import student_weights, teacher_weights


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
            for method in study.methods:
                if method in ("scd", "sct"):
                    start = student_weights(study, family, size, method)
                    student = make(method, teacher, weights=start)
                    runs.append(PlannedRun(student, teacher, start.folder if start else None))
            if "vsd" in study.methods:
                student = make("scd", teacher, weights=student_weights(study, family, size, "scd"))
                runs.append(PlannedRun(make("vsd", teacher, student), student))
    return runs


def _spec(
    study: StudyConfig,
    family: Family,
    data: RunData,
    size: str,
    seed: int,
    method: Method,
    teacher: RunSpec | None = None,
    student: RunSpec | None = None,
    weights: SavedModel | None = None,
) -> RunSpec:
    recipe = study.recipe(method, size)
    # Without the folder of its weights, which may be moved.
    if isinstance(recipe, Teacher):
        recipe = TeacherRecipe.model_validate(recipe.model_dump(exclude={"weights"}))
    elif isinstance(recipe, Student):
        recipe = ConsistencyRecipe.model_validate(recipe.model_dump(exclude={"weights"}))
    assert isinstance(recipe, TeacherRecipe | ConsistencyRecipe | VsdRecipe), "the kinds of recipe"
    guided = isinstance(recipe, StudentRecipe) and recipe.guidance is not None
    network = weights.config if weights and method == "teacher" else family.size(size)
    if (guided or study.sampling_of(size).teacher_guidance != 1) and not network.num_classes:
        raise ConfigError(
            f"guidance: num_classes of size {size!r} of family {family.name!r} is 0, and guidance needs classes: "
            "remove guidance and sampling.teacher_guidance, or choose another family"
        )
    return RunSpec(
        method=method,
        size=size,
        seed=seed,
        precision=study.precision,
        network=network_config({**network.describe(), "guidance": guided}, f"size {size!r} for {method}").describe(),
        data=data,
        recipe=recipe,
        ema=study.ema_of(size),
        sampling=study.sampling_of(size),
        evaluation=study.evaluation.without_files(),
        max_nonfinite_steps=study.max_nonfinite_steps,
        weights=weights.sha256 if weights else None,
        teacher=teacher.identity() if teacher else None,
        student=student.identity() if student else None,
        networks=network_hashes(study.evaluation),
    )
