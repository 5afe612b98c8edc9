"""What the files of a study and of its runs hold: one schema a file, for whoever writes it and whoever reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """Base of all: values are fixed once read, and finite; keys that a later version added are let through."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class StepScore(Schema):
    """The distance of one run's samples drawn in `steps` steps, and its values under resampling."""

    steps: int = Field(gt=0)
    nfe: int = Field(gt=0)
    fd: float = Field(gt=0)
    replicates: tuple[float, ...] = ()


class RunScores(Schema):
    """scores.json of a run: who it is, what it cost, its metric with N and floor, and its distances."""

    study: str
    run: str
    method: str
    size: str
    seed: int
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0)
    metric: str
    n: int = Field(gt=0)
    floor: float = Field(ge=0)
    untrained: float | None = None
    scores: tuple[StepScore, ...] = Field(description="none where samples are not judged")


class Timings(Schema):
    """timings.json of a run: seconds of each stage over all launches, the most memory in bytes, threads."""

    threads: int | None = None
    train: float | None = None
    sample: float | None = None
    evaluate: float | None = None
    peak_memory_bytes: int | None = None

    def adding(self, stage: str, seconds: float) -> Timings:
        """With the seconds of one more block of a stage."""
        return self.model_copy(update={stage: round((getattr(self, stage) or 0.0) + seconds, 3)})


class Environment(Schema):
    """environment.json of a study: what was run, with what, on what, and how long it took (seconds)."""

    study: str | None = None
    started: str | None = None
    commit: str | None = None
    command: str | None = None
    versions: dict[str, str] = {}
    machine: dict[str, str | int | float | None] = {}
    seeds: tuple[int, ...] = ()
    stages: dict[str, float] = {}
    wall_seconds: float = 0.0
    data: dict[str, str | int | None] = {}

    def adding(self, stage: str, seconds: float) -> Environment:
        """With the seconds of one more block of a stage."""
        stages = {**self.stages, stage: round(self.stages.get(stage, 0.0) + seconds, 3)}
        return self.model_copy(update={"stages": stages, "wall_seconds": round(self.wall_seconds + seconds, 3)})


class StudyRuns(Schema):
    """study.json of a study: the names of its runs as it was last launched, each after its parent."""

    runs: tuple[str, ...] = Field(min_length=1)
