"""Weights at rest that teachers start from: which of them a study can take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from models.encoders import RGB
from models.family import Family, FamilyError
from models.network import NetworkConfig
from scaling.config.encoders import known_encoder
from scaling.config.sections import ConsistencyRecipe, VsdRecipe
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.weights.folder import ModelError, SavedModel, load_model

SHARED = ("resolution", "latent_channels", "num_classes")  # what a teacher and its students must agree on


def teacher_weights(study: StudyConfig, family: Family, size: str) -> SavedModel | None:
    """The model that the teacher of one size starts from, None where it starts from random weights.

    Its description is checked against the study; the weights themselves are not read. ConfigError names the key.
    """
    folder = study.teacher_of(size).weights
    if folder is None:
        return None
    try:
        saved = load_model(folder)
    except (ModelError, FamilyError, ConfigError) as error:
        raise ConfigError(f"teacher.weights: {error} (size {size})") from error
    network = family.size(size)
    for fault in (*_content_faults(saved, study), *_network_faults(saved, network, family.name)):
        raise ConfigError(f"teacher.weights: {folder} (size {size}): {fault}")
    _check_starts(study, family, size, saved)
    return saved


def verify_weights(study: StudyConfig, family: Family) -> None:
    """Read every byte of the weights that teachers start from; ConfigError or ModelError where they do not do."""
    for size in study.sizes:
        saved = teacher_weights(study, family, size)
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
    if description.parameterization != "trigflow":
        yield (
            f"its parameterization is {description.parameterization!r}, and a teacher's is 'trigflow': import it again "
            "with --as trigflow-teacher"
        )
    encoder = description.encoder or RGB.name  # networks that see pixels take them as rgb-v1 does (EDM2)
    ours = known_encoder(study.data.encoder, "data.encoder").name
    if encoder != ours:
        yield (
            f"its encoder is {description.encoder or 'none (pixels, which is rgb-v1)'}, but data.encoder is "
            f"{ours}: one network's latents are noise to another; use data of its encoder"
        )


def _network_faults(saved: SavedModel, network: NetworkConfig, family: str) -> Iterator[str]:
    """Whether it can teach networks of the family's size at all."""
    for key in SHARED:
        at_rest, wanted = getattr(saved.config, key), getattr(network, key)
        if at_rest != wanted:
            yield f"its {key} is {at_rest}, but that of the size in family {family!r} is {wanted}: make them equal"
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
