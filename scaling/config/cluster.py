"""A cluster file: where on a cluster the runs of a study go, and what they ask for beside what the plan knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from data_pipeline.text import is_safe
from scaling.config.families import CONFIGS
from scaling.config.recipes import Positive
from scaling.config.validation import ConfigError, Section, choices, read_yaml, validate
from slurm.ranks import TOLD_TO_RANKS

NO_JOB = "with it sbatch does not answer with the number of a job that will run"
# What `study submit` itself says to sbatch; given by hand it would break what relies on it.
OURS = {
    **dict.fromkeys(("array", "dependency", "kill-on-invalid-dep"), "the graph of the study's jobs sets it"),
    **dict.fromkeys(("output", "error", "open-mode", "export", "comment", "job-name"), "trigscale sets it"),
    **dict.fromkeys(("signal",), "set signal_seconds"),
    **dict.fromkeys(("time",), "set minutes"),
    **dict.fromkeys(("mem",), "set memory_gb"),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "launch.devices of the study and devices_per_node say it"),
    **dict.fromkeys(("gpus-per-task", "gpus-per-node", "gpus"), "one GPU a task is asked for, unless gpus is false"),
    **dict.fromkeys(("cpus-per-task",), "set cpus_per_task"),
    **dict.fromkeys(("requeue", "no-requeue"), "jobs must be requeued to continue"),
    **dict.fromkeys(("clusters", "cluster"), "a job's number is looked up on the cluster that sbatch is called on"),
    **dict.fromkeys(("wrap", "test-only", "wait", "parsable", "quiet", "help", "usage", "version"), NO_JOB),
    **dict.fromkeys(("partition", "account", "qos", "constraint"), "it is a key of the cluster file: set it there"),
}
# What a job's tasks find in their environment by trigscale or SLURM; another value would make them others' tasks.
OURS_INSIDE = re.compile(
    f"{TOLD_TO_RANKS}|CUDA_VISIBLE_DEVICES|PYTHON(PATH|SAFEPATH)|(SBATCH|TRIGSCALE)_.*"
    "|SLURM_((JOB|ARRAY|STEP|NODE|TASK|NTASKS|RESTART|SUBMIT)[A-Z_]*|PROCID|LOCALID|NPROCS|NNODES|GTIDS)"
)


def variable_name(name: str) -> str:
    """The name, found fit for an environment variable; ValueError."""
    if not name.isascii() or not name.isidentifier():
        raise ValueError("is no name of an environment variable: letters, digits and underscores")
    if OURS_INSIDE.fullmatch(name):
        raise ValueError("tells a task who it is and what to import, which trigscale and SLURM say: remove it")
    return name


def one_line(text: str) -> str:
    """The text, found to be one line; ValueError."""
    if not text or not is_safe(text):
        raise ValueError("is empty or has line breaks or control characters: write one line")
    return text


def own_folder(text: str) -> str:
    """The path, found to be one on a node's own disk; ValueError."""
    if not text.startswith("/"):
        raise ValueError("is no absolute path, and nothing expands ~ or $ in it: write one, such as /scratch/trigscale")
    return text


Variable = Annotated[str, AfterValidator(variable_name)]
Line = Annotated[str, AfterValidator(one_line)]
ENOUGH_MINUTES = 366 * 24 * 60


def long_name(option: str) -> str:
    """An option of sbatch as it is written after its two dashes."""
    return option.replace("_", "-").lstrip("-")


class Cluster(Section):
    """A cluster file. What it leaves out, the plan and the study say, or the cluster's own defaults."""

    partition: Line | None = Field(default=None, description="partition of the runs; null: the cluster's default")
    account: Line | None = Field(default=None, description="account that is charged")
    qos: Line | None = Field(default=None, description="quality of service")
    constraint: Line | None = Field(default=None, description="features that nodes must have")
    gpus: bool = Field(default=True, description="one GPU a device of launch.devices; false: CPUs, over gloo")
    devices_per_node: Positive = Field(default=8, description="devices of one run that share a node, at most")
    cpus_per_task: Positive | None = Field(default=None, description="CPU cores a device; null: launch.threads")
    memory_gb: Positive | None = Field(default=None, description="memory of a node for one run, GB of 1024 MB")
    minutes: Annotated[int, Field(ge=1, le=ENOUGH_MINUTES)] | None = Field(
        default=None,
        description="time limit of one start, in minutes; longer runs continue in another; null: the plan's estimate",
    )
    max_minutes: Annotated[int, Field(ge=1, le=ENOUGH_MINUTES)] = Field(
        default=24 * 60, description="most minutes that the plan's estimate may ask for"
    )
    report_minutes: Positive = Field(default=30, description="time limit of the report, in minutes")
    signal_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=120, description="seconds before its time limit at which a run is told to save and end"
    )
    parallel: int = Field(default=0, ge=0, description="runs of one kind at once; 0: as many as there is room for")
    modules: tuple[Line, ...] = Field(default=(), description="modules to load, by `module load`")
    setup: tuple[Line, ...] = Field(default=(), description="lines of bash before the program; a failing one ends it")
    container: tuple[Line, ...] = Field(
        default=(), description="words in front of the program, such as [apptainer, exec, --nv, image.sif]"
    )
    container_python: Line = Field(default="python3", description="Python inside the container")
    environment: dict[Variable, Line] = Field(
        default_factory=dict, description="environment of the jobs: {NAME: value}"
    )
    pass_environment: tuple[Variable, ...] = Field(
        default=(), description="variables of the submitting shell that jobs may see, such as WANDB_API_KEY"
    )
    local_copy: Annotated[Line, AfterValidator(own_folder)] | None = Field(
        default=None, description="folder on each node's own disk that training shards are copied to; null: none"
    )
    sbatch: dict[str, str | int | bool] = Field(
        default_factory=dict,
        description="any other option of sbatch, by its long name: {reservation: NAME}; true: one without a value",
    )

    @model_validator(mode="after")
    def _leaves_ours(self) -> Cluster:
        for option in self.sbatch:
            name = long_name(option)
            if not re.fullmatch("[a-z][a-z-]+", name):
                raise ValueError(
                    f"sbatch.{option}: is no option of sbatch: write its long name without dashes in front, in small "
                    "letters"
                )
            # sbatch takes the beginning of an option's name for the option.
            meant = name if name in OURS else next((each for each in OURS if each.startswith(name)), None)
            if meant is not None:
                raise ValueError(f"sbatch.{option}: {OURS[meant]}: remove it here")
            if self.gpus and name == "gres" and "gpu" in str(self.sbatch[option]):
                raise ValueError(f"sbatch.{option}: {OURS['gpus']}: remove it here")
        for key in ("minutes", "max_minutes", "report_minutes"):
            limit = getattr(self, key)
            if limit is not None and 60 * limit <= self.signal_seconds:
                raise ValueError(
                    f"signal_seconds: {self.signal_seconds} is not before a time limit of {limit} minutes ({key}): a "
                    "job would be told to end as it begins: lower it"
                )
        return self


def load_cluster(path: Path) -> Cluster:
    """Read a cluster file, or the one of that name that is shipped. ConfigError names file, key and value."""
    return validate(Cluster, read_yaml(find_cluster(path)), str(path))


def find_cluster(path: Path) -> Path:
    """The file at `path`, else the one of that name in configs/cluster. ConfigError where there is neither."""
    if path.exists():
        return path
    shipped: dict[str, Any] = {file.stem: file for file in sorted((CONFIGS / "cluster").glob("*.yaml"))}
    if str(path) in shipped:
        return shipped[str(path)]
    raise ConfigError(
        f"{path}: no such file; of the shipped examples, which go by name, {choices(path.stem, [*shipped])}"
    )
