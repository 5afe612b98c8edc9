"""What one run is: everything that changes its result, its identity, and the files of its home folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from models.family import Family, network_config
from models.unet import NetworkConfig
from scaling.config import (
    ConfigError,
    Ema,
    Evaluation,
    Launch,
    Method,
    Sampling,
    Section,
    StudentRecipe,
    StudyConfig,
    TeacherRecipe,
    read_yaml,
    validate,
)


class RunData(Section):
    """The training data by content, wherever it lies."""

    content_sha256: str = Field(description="hash of the training samples and labels in order")
    held_out_sha256: str = Field(description="hash of the held-out samples and labels in order")
    encoder: str = Field(description="name of the encoder")


class RunSpec(Section):
    """Everything that changes the result of a run, which is a pure function of it; its hash is the run's identity."""

    method: Method
    size: str
    seed: int
    precision: str
    network: dict[str, Any]
    data: RunData
    # A teacher's recipe has fewer keys and is tried first: a student's is refused by it for its surplus keys.
    recipe: TeacherRecipe | StudentRecipe = Field(union_mode="left_to_right")
    ema: Ema
    sampling: Sampling
    evaluation: Evaluation
    max_nonfinite_steps: int
    teacher: str | None = Field(description="identity of the run that a student starts from or distils")

    def identity(self) -> str:
        """12 hexadecimal digits of the SHA-256 over the canonical JSON of all fields."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def network_config(self) -> NetworkConfig:
        """The shape of the network."""
        return network_config(self.network, f"network of {self.name()}")

    def name(self) -> str:
        """The name of the run and of its folder: method-size-identity."""
        return f"{self.method}-{self.size}-{self.identity()}"


class RunFile(Section):
    """config.yaml of a run's home: the specification and where its inputs lie."""

    study: str
    identity: str
    spec: RunSpec
    shards: Path = Field(description="folder of the training shards")
    reference: Path = Field(description="statistics of the real images that samples are judged by")
    teacher_home: Path | None = Field(description="home of the teacher's run")
    launch: Launch


@dataclass(frozen=True)
class Run:
    """One run of a study with its parent."""

    spec: RunSpec
    parent: RunSpec | None

    @property
    def name(self) -> str:
        """method-size-identity."""
        return self.spec.name()


def expand(study: StudyConfig, family: Family, data: RunData) -> list[Run]:
    """All runs of a study, teachers before their students, sizes in the order of the file."""
    runs: list[Run] = []
    for seed in study.seeds:
        for size in study.sizes:
            teacher = _spec(study, family, data, "teacher", size, seed, None)
            runs.append(Run(teacher, None))
            for method in study.methods:
                if method != "teacher":
                    runs.append(Run(_spec(study, family, data, method, size, seed, teacher), teacher))
    return runs


def _spec(
    study: StudyConfig, family: Family, data: RunData, method: Method, size: str, seed: int, teacher: RunSpec | None
) -> RunSpec:
    recipe = study.recipe(method, size)
    assert isinstance(recipe, TeacherRecipe | StudentRecipe), "the two kinds of recipe"
    return RunSpec(
        method=method,
        size=size,
        seed=seed,
        precision=study.precision,
        network=asdict(family.size(size)),
        data=data,
        recipe=recipe,
        ema=study.ema,
        sampling=study.sampling,
        evaluation=study.evaluation,
        max_nonfinite_steps=study.max_nonfinite_steps,
        teacher=teacher.identity() if teacher else None,
    )


def dump_run(run: RunFile) -> str:
    """The text of config.yaml."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_run(home: Path) -> RunFile:
    """Read a run's config.yaml. ConfigError names the file, and says so if it was edited after the run was planned."""
    path = home / "config.yaml"
    run = validate(RunFile, read_yaml(path), str(path))
    if run.spec.identity() != run.identity:
        raise ConfigError(
            f"{path}: identity is {run.identity} but its spec hashes to {run.spec.identity()}: the file was edited; "
            "change the study file instead, and launch it again"
        )
    return run
