"""A study file as a whole: its sections, what must fit together, and its reading.

The keys are the fields of `StudyConfig`, `scaling.config.recipes` and `scaling.config.sections`. Unknown keys and wrong
types are a `ConfigError` that names key, value and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from data_pipeline.text import is_safe
from scaling.config.families import CONFIGS
from scaling.config.methods import PARTS
from scaling.config.recipes import (
    LABELS,
    METHODS,
    Method,
    Positive,
    Recipe,
    ScdVsdRecipe,
    Student,
    StudentRecipe,
    Teacher,
    VsdRecipe,
)
from scaling.config.sections import MIXTURE, Data, Ema, Evaluation, Launch, Precision, Sampling, student_steps
from scaling.config.validation import ConfigError, Section, apply_override, choices, each_once, read_yaml, validate

NAME_BYTES = 100
DEFAULT_METHODS: tuple[Method, ...] = ("teacher", "scd", "sct")


def folder_name(name: str) -> str:
    """The name, found fit for a folder and for a terminal; ValueError says what is wrong with it."""
    if not is_safe(name):
        raise ValueError("has line breaks or other characters that cannot be seen: leave them out")
    if not name or name.startswith(".") or "/" in name or len(name.encode()) > NAME_BYTES:
        raise ValueError(
            f"is the name of a folder: 1 to {NAME_BYTES} bytes, no slash, no dot in front, such as fashion-2"
        )
    return name


def variant_name(name: str) -> str:
    """The name, found fit to stand for a method in names of runs; ValueError says what is wrong with it."""
    if not VARIANT.fullmatch(name):
        raise ValueError("names a variant by letters, digits and . _ + alone, 40 at most, such as scd_raw or cd_1024")
    if name in METHODS:
        raise ValueError(f"is a method: name the variant otherwise, such as {name}_2")
    return name


FolderName = Annotated[str, AfterValidator(folder_name)]
VariantName = Annotated[str, AfterValidator(variant_name)]
VARIANT = re.compile(r"[\w.+]{1,40}", re.ASCII)
VARIED: tuple[Method, ...] = ("scd", "sct")  # the methods whose recipes may be varied
SizeSection = Literal["teacher", "scd", "sct", "vsd", "scd_vsd", "ema", "sampling"]
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Entry:
    """What a study runs at one size: a method by its recipe, or a variant of it; key: where the file has its recipe."""

    method: Method
    recipe: Recipe
    variant: str | None = None

    @property
    def label(self) -> str:
        """The name of the curve."""
        return self.variant or self.method

    @property
    def key(self) -> str:
        """Where the file has its recipe."""
        return f"variants.{self.variant}" if self.variant else self.method


class StudyConfig(Section):
    """A scaling study: a family of sizes, the methods to compare, and how to train, sample and judge them."""

    name: FolderName = Field(description="name of the study and of its folder, without slashes")
    family: str = Field(description="family of sizes: a name in configs/family, or a YAML file")
    sizes: tuple[str, ...] = Field(min_length=1, description="sizes of the family to run")
    methods: tuple[Method, ...] = Field(default=DEFAULT_METHODS, min_length=1, description=", ".join(METHODS))
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, description="one run a seed")
    precision: Precision = Field(default="fp32", description="arithmetic of the network; weights stay float32")
    data: Data = Data()
    teacher: Teacher
    scd: Student | None = None
    sct: Student | None = None
    vsd: VsdRecipe | None = None
    scd_vsd: ScdVsdRecipe | None = None
    variants: dict[VariantName, dict[str, Any]] = Field(
        default_factory=dict,
        description="more students, each a recipe with other values of some keys: {name: {of: scd or sct, key: value}}",
    )
    by_size: dict[str, dict[SizeSection, dict[str, Any]]] = Field(
        default_factory=dict,
        description="keys of recipes, ema and sampling for single sizes: {size: {section: {key: value}}}",
    )
    ema: Ema = Ema()
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()
    launch: Launch = Launch()
    max_nonfinite_steps: Positive = Field(
        default=20, description="steps in a row with a non-finite loss or gradient before a run stops"
    )

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        for name, values in (("sizes", self.sizes), ("methods", self.methods), ("seeds", self.seeds)):
            each_once(name, values)
        if "teacher" not in self.methods:
            raise ValueError("methods: add teacher: every student is compared with the teacher of its size")
        for method in self.methods:
            for parent in PARTS[method].parents:
                if parent not in self.methods:
                    raise ValueError(
                        f"methods: add {parent}: {method} starts from the {LABELS[parent]} student of its size"
                    )
            if getattr(self, method) is None:
                raise ValueError(f"{method}: methods names it but the file has no section {method}: add one")
        if "own" in self.evaluation.spaces and self.evaluation.ruler is None:
            raise ValueError(
                "evaluation.ruler: name the file of the network whose features are meant, made by `trigscale ruler "
                "train SHARDS --to ruler.safetensors`"
            )
        if ("truth" in self.evaluation.spaces) > (self.data.source == MIXTURE):
            raise ValueError(
                f"evaluation.metric: truth needs data whose flow is known: set data.source to {MIXTURE}, or name "
                "another metric"
            )
        for name, changes in self.variants.items():
            self._check_variant(name, changes)
        for size in self.sizes:
            self._check_start(size)
            self._check_profiles(size)
            self._check_guidance(size)
            self._check_truth(size)
            self._check_steps(size)
            self._check_joined(size)
        return self

    def _check_variant(self, name: str, changes: dict[str, Any]) -> None:
        """A variant is of a method that may be varied and has a section."""
        if changes.get("of") not in VARIED:
            raise ValueError(
                f"variants.{name}.of: is {changes.get('of')!r}: name what it varies, {' or '.join(VARIED)}"
            )
        if getattr(self, changes["of"]) is None:
            raise ValueError(f"variants.{name}: the file has no section {changes['of']} that it could vary: add one")

    def _check_start(self, size: str) -> None:
        """A teacher is trained, or is a network at rest."""
        teacher = self.teacher_of(size)
        if not teacher.steps and teacher.weights is None:
            raise ValueError(
                "teacher.steps: is 0, which takes a network as it is, and teacher.weights names none: set steps above "
                f"0, or weights to a folder made by `trigscale model import-edm2`{self._of(size)}"
            )

    def _check_profiles(self, size: str) -> None:
        """Every average that is used is one that is kept."""
        ema, sampling = self.ema_of(size), self.sampling_of(size)
        used = {"sampling.teacher_ema": sampling.teacher_ema, "sampling.student_ema": sampling.student_ema}
        used |= {f"{one.key}.teacher_ema": recipe.teacher_ema for one, recipe in self.students(size)}
        for key, value in used.items():
            profiles = "sigma_rel" if value < 1 else "half_life_images"
            kept = getattr(ema, profiles)
            if value not in kept:
                raise ValueError(
                    f"{key}: {value} is not among ema.{profiles} {list(kept)}: add it there{self._of(size)}"
                )

    def _check_truth(self, size: str) -> None:
        """A student is held against its own teacher as that was sampled."""
        if "truth" not in self.evaluation.spaces:
            return
        sampled = self.sampling_of(size).teacher_ema
        for one, recipe in self.students(size):
            if recipe.teacher_ema != sampled:
                raise ValueError(
                    f"{one.key}.teacher_ema: is {recipe.teacher_ema}, but metric truth compares students with their "
                    f"teachers as these are sampled: make it sampling.teacher_ema, {sampled}{self._of(size)}"
                )

    def _check_guidance(self, size: str) -> None:
        """Guidance needs a teacher that knows samples without labels, and strengths that the student has seen."""
        sampling, teacher = self.sampling_of(size), self.teacher_of(size)
        guided = {one.key: recipe.guidance for one, recipe in self.students(size) if recipe.guidance is not None}
        for one, _ in self.students(size):
            if one.method == "sct" and one.key in guided:
                raise ValueError(
                    f"{one.key}.guidance: consistency training has no teacher that could be guided: remove it"
                )
        if "scd_vsd" in self.methods and ("scd_vsd" in guided) != ("scd" in guided):
            raise ValueError(
                "scd_vsd.guidance: give it where scd.guidance is given, and only there: scd_vsd starts from sCD"
            )
        if teacher.guide is not None and not guided:
            raise ValueError(
                f"teacher.guide: guides the teacher of students, and none has guidance: set it{self._of(size)}"
            )
        users = [f"{method}.guidance" for method in guided] if teacher.guide is None else []
        users += ["sampling.teacher_guidance"] if sampling.teacher_guidance != 1 else []
        users += ["evaluation.guidance"] if set(self.evaluation.guidance) - {1} else []
        if users and not teacher.label_dropout:
            known = "set it, the paper takes 0.1" if teacher.steps else "set it if teacher.weights were trained so"
            raise ValueError(
                f"teacher.label_dropout: is 0, but {users[0]} needs a teacher that was trained without labels too: "
                f"{known}{self._of(size)}"
            )
        # Strengths may wait in the file while the methods that use them are left out.
        steps = {
            number
            for _, recipe in self.students(size)
            if recipe.guidance is not None
            for number in student_steps(recipe, sampling)
        }
        if guided and set(sampling.student_guidance) != steps:
            raise ValueError(
                f"sampling.student_guidance: has strengths for steps {sorted(sampling.student_guidance)}, but students "
                f"with guidance are sampled in steps {sorted(steps)}: give one strength each"
                f"{self._of(size)}"
            )
        strengths = [("sampling.student_guidance", one) for one in sampling.student_guidance.values()]
        strengths += [("evaluation.guidance", one) for one in self.evaluation.guidance]
        for method, (low, high) in guided.items():
            for key, strength in strengths:
                if not low <= strength <= high:
                    raise ValueError(
                        f"{key}: {strength} is outside {method}.guidance [{low}, {high}], which is all that the "
                        f"student saw: choose one inside{self._of(size)}"
                    )

    def _check_steps(self, size: str) -> None:
        """A generator of one step is sampled so."""
        steps = self.sampling_of(size).student_steps
        for method in self.methods:
            if PARTS[method].one_step and 1 not in steps:
                raise ValueError(
                    f"sampling.student_steps: {list(steps)} has no 1, and {method} makes samples in one step alone: "
                    f"add it{self._of(size)}"
                )

    def _check_joined(self, size: str) -> None:
        """sCD+VSD goes on from an sCD student that leads to the data, as it does itself."""
        scd = self.recipe("scd", size) if "scd_vsd" in self.methods else None
        for key in ("segments", "flow_map"):
            if isinstance(scd, StudentRecipe) and getattr(scd, key) != StudentRecipe.model_fields[key].default:
                raise ValueError(
                    f"scd.{key}: scd_vsd goes on from this student, and needs one whose one step leads to the data: "
                    f"make it one of variants, or leave scd_vsd out{self._of(size)}"
                )

    def _of(self, size: str) -> str:
        return f" (size {size})" if size in self.by_size else ""

    def entries(self, size: str) -> Iterator[Entry]:
        """All that is run at one size: the methods in the order of the file, then the variants."""
        yield from (self.entry(method, size) for method in self.methods)
        for name in self.variants:
            yield self.variant(name, size)

    def students(self, size: str) -> Iterator[tuple[Entry, StudentRecipe]]:
        """The consistency models of one size and their recipes."""
        for entry in self.entries(size):
            if isinstance(entry.recipe, StudentRecipe):
                yield entry, entry.recipe

    def entry(self, method: Method, size: str) -> Entry:
        """A method with its own recipe."""
        return Entry(method, self.recipe(method, size))

    def variant(self, name: str, size: str) -> Entry:
        """A variant: the recipe that it varies with the overrides of one size, then with its own. ConfigError."""
        changes = dict(self.variants[name])
        method: Method = changes.pop("of")
        base = self.recipe(method, size)
        return Entry(method, validate(type(base), {**base.model_dump(), **changes}, f"variants.{name}"), name)

    def recipe(self, method: Method, size: str) -> Recipe:
        """The recipe of one method with the overrides of one size."""
        base: Recipe | None = getattr(self, method)
        assert base is not None, "checked on reading"
        return self._changed(base, method, size)

    def teacher_of(self, size: str) -> Teacher:
        """The section `teacher` with the overrides of one size."""
        return self._changed(self.teacher, "teacher", size)

    def sampling_of(self, size: str) -> Sampling:
        """The section `sampling` with the overrides of one size."""
        return self._changed(self.sampling, "sampling", size)

    def ema_of(self, size: str) -> Ema:
        """The section `ema` with the overrides of one size."""
        return self._changed(self.ema, "ema", size)

    def _changed(self, base: S, section: SizeSection, size: str) -> S:
        changes = self.by_size.get(size, {}).get(section, {})
        return validate(type(base), {**base.model_dump(), **changes}, f"by_size.{size}.{section}")


def find_study(path: Path) -> Path:
    """The file at `path`, else the one of that name that is shipped: "fashion" is configs/study/fashion.yaml.

    Raises ConfigError where there is neither.
    """
    shipped = {file.stem: file for file in sorted((CONFIGS / "study").glob("*.yaml"))}
    if path.exists() and not (path.is_dir() and str(path) in shipped):
        return path
    if str(path) in shipped:
        return shipped[str(path)]
    raise ConfigError(
        f"{path}: no such file; of the shipped studies, which go by name, {choices(path.stem, [*shipped])}"
    )


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study file and apply overrides of the form key.sub=value (the value is read as YAML)."""
    content = read_yaml(find_study(path))
    for override in overrides:
        apply_override(content, override)
    return validate(StudyConfig, content, str(path))
