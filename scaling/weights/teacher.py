"""Weights at rest that teachers and students start from: which of them a study can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from models.family import Family, FamilyError
from models.network import NetworkConfig
from models.release import ModelError
from scaling.config.encoders import known_encoder
from scaling.config.recipes import ConsistencyRecipe, Student, VsdRecipe
from scaling.config.study import Entry, StudyConfig
from scaling.config.validation import ConfigError
from scaling.weights.folder import SavedModel, load_model
from scaling.weights.hub import located

SHARED = ("resolution", "latent_channels", "num_classes")  # what a teacher and its students must agree on


def teacher_weights(study: StudyConfig, family: Family, size: str) -> SavedModel | None:
    """The model that the teacher of one size starts from, None where it starts from random weights.

    Its description is checked against the study; the weights themselves are not read. ConfigError names the key.
    """
    folder = study.teacher_of(size).weights
    if folder is None:
        return None
    saved = _fitting(study, "teacher.weights", folder, size, partial(_network_faults, family=family, size=size))
    _check_starts(study, family, size, saved)
    return saved


def guide_weights(study: StudyConfig, family: Family, size: str) -> SavedModel | None:
    """The weaker network away from which the teacher of one size is guided, None where that is by labels.

    It is checked as the teacher's is.
    """
    folder = study.teacher_of(size).guide
    if folder is None:
        return None
    return _fitting(study, "teacher.guide", folder, size, partial(_network_faults, family=family, size=size))


def student_weights(study: StudyConfig, family: Family, size: str, entry: Entry) -> SavedModel | None:
    """The released student that one size's student goes on from, None where it starts as its recipe says.

    It is checked as the teacher's is.
    """
    recipe = entry.recipe
    if not isinstance(recipe, Student) or recipe.weights is None:
        return None
    own = replace(family.size(size), guidance=recipe.guidance is not None, second_time=recipe.flow_map)
    return _fitting(study, f"{entry.key}.weights", recipe.weights, size, partial(_student_faults, own=own))


def _fitting(
    study: StudyConfig, key: str, folder: Path, size: str, faults: Callable[[SavedModel], Iterator[str]]
) -> SavedModel:
    """The model that the key names, in a folder or on the Hub; ConfigError with the first thing that is against it."""
    try:
        place = located(folder)
        saved = replace(load_model(place.folder), commit=place.commit)
    except (ModelError, FamilyError, ConfigError) as error:
        raise ConfigError(f"{key}: {error} (size {size})") from error
    for fault in (*_content_faults(saved, study), *faults(saved)):
        raise ConfigError(f"{key}: {folder} (size {size}): {fault}")
    return saved


def _student_faults(saved: SavedModel, own: NetworkConfig) -> Iterator[str]:
    """Whether a student's network can go on from these weights; what it is told besides may be added."""
    if saved.description.kind != "student":
        yield "holds a teacher, from which a student starts by teacher.weights: name the release of a student"
    there, wanted = asdict(saved.config), asdict(own)
    for told in ("guidance", "second_time"):
        if not there[told]:
            del there[told]
    if differ := [f"{key} {there[key]!r} / {wanted[key]!r}" for key in there if there[key] != wanted[key]]:
        yield f"is another network than the size's (weights / family: {', '.join(differ)}): choose the family it is of"


def verify_weights(study: StudyConfig, family: Family) -> None:
    """Read every byte of the weights that runs start from; ConfigError or ModelError where they do not do."""
    for size in study.sizes:
        found = [student_weights(study, family, size, entry) for entry, _ in study.students(size)]
        for saved in (teacher_weights(study, family, size), guide_weights(study, family, size), *found):
            if saved is not None:
                saved.verify()


def planned_weights(folder: Path, sha256: str) -> SavedModel:
    """The model in the folder; ModelError unless it is that which the run was planned with."""
    saved = load_model(folder)
    if saved.sha256 != sha256:
        raise ModelError(f"{folder}: holds other weights than the run was planned with: launch the study again")
    return saved


def _content_faults(saved: SavedModel, study: StudyConfig) -> Iterator[str]:
    """What it computes, and on what."""
    description = saved.description
    encoder, ours = description.encoder, known_encoder(study.data.encoder, "data.encoder")
    if encoder["name"] != ours.name:
        yield (
            f"its encoder is {encoder['name']}, but data.encoder is {ours.name}: one network's latents are noise to "
            "another; use data of its encoder"
        )
    constants = [list(ours.mean), list(ours.std)]
    if "mean" in encoder and [encoder["mean"], encoder["std"]] != constants:  # the first version knew the name alone
        yield (
            f"its encoder {ours.name} has mean {encoder['mean']} and std {encoder['std']}, but data.encoder of that "
            f"name has {constants[0]} and {constants[1]}: use the constants that it was trained with"
        )


def _network_faults(saved: SavedModel, family: Family, size: str) -> Iterator[str]:
    """Whether it can teach networks of the family's size at all."""
    network = family.size(size)
    for key in SHARED:
        at_rest, wanted = getattr(saved.config, key), getattr(network, key)
        if at_rest != wanted:
            yield f"its {key} is {at_rest}, but that of the size in family {family.name!r} is {wanted}: make them equal"
    if saved.description.kind == "student":
        yield "holds a consistency model, whose F is no velocity: a student goes on from it by scd.weights, sct.weights"
    if saved.config.guidance:
        yield "its network takes a guidance strength, as students do: name the weights of a teacher"


def _check_starts(study: StudyConfig, family: Family, size: str, saved: SavedModel) -> None:
    """A student that starts from the teacher's weights has the teacher's network, but for the guidance input."""
    teacher, student = asdict(saved.config), asdict(replace(family.size(size), guidance=False))
    differ = [f"{key} {teacher[key]!r} / {student[key]!r}" for key in teacher if teacher[key] != student[key]]
    for entry, recipe in study.students(size):
        chosen = isinstance(recipe, ConsistencyRecipe) and recipe.start == "teacher"
        if differ and (chosen or isinstance(recipe, VsdRecipe)):
            remedy = f"set {entry.key}.start to scratch" if chosen else "take scd_vsd, whose sCD may start from scratch"
            start = ".start: teacher" if chosen else ": starts from the teacher"
            raise ConfigError(
                f"{entry.key}{start}, but size {size!r} of family {family.name!r} is not the network of "
                f"teacher.weights {saved.folder} (weights / family: {', '.join(differ)}): {remedy}, or choose a family "
                "of that network (`flavour: edm2` for EDM2's)"
            )
