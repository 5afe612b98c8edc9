"""The study file: what a user may set, validated, with units and defaults.

Every key is a field below. Unknown keys and wrong types are a `ConfigError` that names key, value and remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Method = Literal["teacher", "scd", "sct"]
METHODS: tuple[Method, ...] = get_args(Method)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


S = TypeVar("S", bound="Section")


class ConfigError(Exception):
    """A mistake in a configuration: the message names the file, the key, the value and the remedy."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
RelativeWidth = Annotated[float, Field(gt=0, lt=0.28)]  # a power-function profile can be no wider


class Recipe(Section):
    """How a network is trained; the defaults are the paper's."""

    steps: Positive = Field(description="optimizer steps")
    batch: Positive = Field(default=2048, description="images a step, over all devices")
    lr: PositiveFloat = Field(description="peak learning rate alpha_ref")
    lr_decay_steps: Positive = Field(default=70000, description="t_ref: steps after which lr falls as 1/sqrt(step)")
    lr_rampup_images: int = Field(default=10_000_000, ge=0, description="images over which lr rises linearly from 0")
    p_mean: float = Field(description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(description="standard deviation of log(sigma) in training, ln units")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of features dropped in training")


class TeacherRecipe(Recipe):
    """The TrigFlow diffusion model."""

    p_mean: float = Field(default=-0.4, description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(default=1.0, description="standard deviation of log(sigma) in training, ln units")


class StudentRecipe(Recipe):
    """A continuous-time consistency model (Algorithm 1)."""

    p_mean: float = Field(default=-0.8, description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(default=1.6, description="standard deviation of log(sigma) in training, ln units")
    start: Literal["teacher", "scratch"] = Field(
        default="teacher", description="initial weights: the teacher's EMA, or random"
    )
    teacher_ema: PositiveFloat = Field(
        default=0.05, description="sigma_rel of the teacher's EMA that starts and is distilled"
    )
    warmup_steps: int = Field(
        default=10000, ge=0, description="H: steps over which the tangent's second term rises to full"
    )
    tangent: Literal["normalize", "clip"] = Field(
        default="normalize", description="g/(||g||+c), or g limited to [-1, 1]"
    )
    tangent_norm: Literal["l2", "rms"] = Field(default="l2", description="which norm of a sample's tangent ||g|| is")
    tangent_constant: PositiveFloat = Field(default=0.1, description="c of the tangent normalisation")


class Data(Section):
    """Where training samples come from."""

    source: str = Field(
        default="fashion", description='"fashion" (embedded Fashion-MNIST), or a folder made by `trigscale data pack`'
    )
    held_out: str | None = Field(
        default=None, description="folder of held-out shards; not for the embedded set, which has its own"
    )
    encoder: str = Field(default="fashion-s2d-v1", description="name of the encoder between images and latents")

    @model_validator(mode="after")
    def _has_held_out(self) -> Data:
        if (self.source == "fashion") != (self.held_out is None):
            raise ValueError(
                "held_out: name held-out shards beside a source of your own, and none beside the embedded set"
            )
        return self


class Ema(Section):
    """Averages of the weights that are kept while training."""

    sigma_rel: tuple[RelativeWidth, ...] = Field(
        default=(0.05, 0.10), min_length=1, description="relative widths of the profiles"
    )


class Sampling(Section):
    """How samples are drawn."""

    teacher_steps: Positive = Field(default=32, description="Heun steps of the teacher; NFE is twice that less one")
    student_steps: tuple[Literal[1, 2], ...] = Field(
        default=(1, 2), min_length=1, description="numbers of steps a student is sampled with"
    )
    intermediate_t: float = Field(default=1.1, gt=0, lt=1.5645, description="time of the second step, radians")
    teacher_ema: PositiveFloat = Field(default=0.05, description="sigma_rel of the EMA a teacher is sampled with")
    student_ema: PositiveFloat = Field(default=0.05, description="sigma_rel of the EMA a student is sampled with")
    batch: Positive = Field(default=250, description="images a forward pass")
    seed: int = Field(default=0, ge=0, description="seed of the sampling noise, the same for every run of the study")


class Evaluation(Section):
    """How samples are judged."""

    metric: Literal["fd-fashion"] = Field(
        default="fd-fashion", description="the distance between generated and real images"
    )
    samples: int = Field(default=5000, ge=100, le=10000, description="generated images a score, N")
    resamples: int = Field(default=200, ge=20, description="bootstrap resamples behind a score's interval")


class Launch(Section):
    """How a study is run; nothing here changes a result."""

    folder: Path = Field(default=Path("runs"), description="folder that holds the studies")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where there is one")
    threads: Positive = Field(default=1, description="CPU threads a run")
    workers: int = Field(default=0, ge=0, description="runs at once; 0 means CPU cores / threads, or one on a GPU")
    checkpoint_seconds: PositiveFloat = Field(default=20.0, description="seconds between checkpoints")
    log_every: Positive = Field(default=20, description="steps between lines of metrics.jsonl")


class StudyConfig(Section):
    """A scaling study: a family of sizes, the methods to compare, and how to train, sample and judge them."""

    name: str = Field(
        pattern=r"^[^/.\x00][^/\x00]*$", description="name of the study and of its folder, without slashes"
    )
    family: str = Field(description="family of sizes: a name in configs/family, or a YAML file")
    sizes: tuple[str, ...] = Field(min_length=1, description="sizes of the family to run")
    methods: tuple[Method, ...] = Field(default=METHODS, min_length=1, description="teacher, scd, sct")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, description="one run a seed")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="arithmetic of the network; weights stay float32"
    )
    data: Data = Data()
    teacher: TeacherRecipe
    scd: StudentRecipe | None = None
    sct: StudentRecipe | None = None
    by_size: dict[str, dict[Method, dict[str, Any]]] = Field(
        default_factory=dict, description="recipe keys of single sizes: {size: {method: {key: value}}}"
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
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {list(values)} repeats an entry: name each once")
        if "teacher" not in self.methods:
            raise ValueError("methods: add teacher: every student is compared with the teacher of its size")
        for method in self.methods:
            if getattr(self, method) is None:
                raise ValueError(f"{method}: methods names it but the file has no section {method}: add one")
        for size in self.by_size:
            if size not in self.sizes:
                raise ValueError(f"by_size: {size!r} is not in sizes {list(self.sizes)}")
        for key in ("teacher_ema", "student_ema"):
            self._check_profile(f"sampling.{key}", getattr(self.sampling, key))
        for size in self.sizes:
            for method in self.methods:
                recipe = self.recipe(method, size)
                if isinstance(recipe, StudentRecipe):
                    self._check_profile(f"{method}.teacher_ema", recipe.teacher_ema)
        return self

    def _check_profile(self, key: str, sigma_rel: float) -> None:
        if sigma_rel not in self.ema.sigma_rel:
            raise ValueError(f"{key}: {sigma_rel} is not among ema.sigma_rel {list(self.ema.sigma_rel)}: add it there")

    def recipe(self, method: Method, size: str) -> Recipe:
        """The recipe of one method with the overrides of one size."""
        base: Recipe | None = getattr(self, method)
        assert base is not None, "checked on reading"
        overrides = self.by_size.get(size, {}).get(method, {})
        return validate(type(base), {**base.model_dump(), **overrides}, f"by_size.{size}.{method}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError names the file where it cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}, not a mapping of keys to values")
    return content


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study file and apply overrides of the form key.sub=value (the value is read as YAML)."""
    content = read_yaml(path)
    for override in overrides:
        _apply(content, override)
    return validate(StudyConfig, content, str(path))


def validate(section: type[S], content: object, where: str) -> S:
    """Build a section from plain values; ConfigError lists every mistake with its key and value."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_explain(section, detail)}" for detail in error.errors()]
        raise ConfigError("\n".join([f"{where}:", *lines])) from None
    except ConfigError as error:  # of a section that is built while this one is checked
        raise ConfigError(f"{where}: {error}") from None


def describe(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key below a section: (dotted key, type, default, description)."""
    for key, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from describe(inner, f"{prefix}{key}.")
            continue
        kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("typing.", "")
        kind = kind if not get_args(field.annotation) else str(field.annotation).replace("typing.", "")
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        yield f"{prefix}{key}", kind, default, field.description or ""


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint for a mistyped word: the nearest known one, else all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _section_of(annotation: Any) -> type[Section] | None:
    """The section behind a field's type, through an optional."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _explain(section: type[Section], detail: Any) -> str:
    """One line for one mistake."""
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        parent: type[Section] | None = section
        for part in detail["loc"][:-1]:
            if parent and part in parent.model_fields:  # not the name of an alternative
                parent = _section_of(parent.model_fields[part].annotation)
        known = list(parent.model_fields) if parent else []
        return f"{path}: unknown key (value {detail['input']!r}); {nearest(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{path}: is required and missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{path}: {message} (value {detail['input']!r})" if path else message


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one key.sub=value in the mapping."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write it as key=value or key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    *parents, last = key.split(".")
    for part in parents:
        inner = content.get(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {part} holds {inner!r}, not a section")
        content[part] = dict(inner)  # a copy: sections that a YAML alias repeats are one mapping
        content = content[part]
    content[last] = value
