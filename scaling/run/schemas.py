"""What the files of a study and of its runs hold: one schema a file, for whoever writes it and whoever reads it."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scaling.config.metrics import METRICS, NONE

SPREAD = 199  # values that stand for a normal distribution


class Schema(BaseModel):
    """Base of all: values are fixed once read, and finite; keys that a later version added are let through."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Interval95(Schema):
    """An estimate and its interval of 95 %."""

    value: float
    low: float
    high: float


class StepScore(Schema):
    """One metric of one run's samples drawn in `steps` steps (its value for a set of N images).

    repeats: the value of each set of samples, where there are several. error: standard error of the value, which is for
    this N; `method` says how it was found. interval: of 95 %, for the expected value at this N. infinite: the estimate
    for infinite N. replicates: values under resampling, of files of earlier versions.
    """

    steps: int = Field(gt=0)
    nfe: int = Field(gt=0)
    value: float
    repeats: tuple[float, ...] = ()
    error: float | None = Field(default=None, ge=0)
    method: Literal["influence", "simulation"] | None = None
    interval: tuple[float, float] | None = None
    infinite: Interval95 | None = None
    replicates: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, content: Any) -> Any:
        """Files of earlier versions call the value `fd`."""
        if isinstance(content, dict) and "fd" in content and "value" not in content:
            return {"value" if key == "fd" else key: entry for key, entry in content.items()}
        return content

    @property
    def fd(self) -> float:
        """The value, of a metric that is a distance."""
        return self.value

    def spread(self) -> tuple[float, ...]:
        """Values that stand for how the noise of the samples spreads this one; none where nothing is known of it."""
        if self.replicates or not self.error:
            return self.replicates
        normal = NormalDist(self.value, self.error)
        return tuple(normal.inv_cdf((i + 0.5) / SPREAD) for i in range(SPREAD))


class MetricScores(Schema):
    """One metric of a run with all that its values depend on.

    features, network, network_sha256: the space, its network and the SHA-256 of its weights. resize: how images reach
    the size that the network sees. reference, reference_sha256, reference_n: the real images, their statistics' hash,
    their number. n: images of a set; seeds: of the first set; sets: how many sets, of which `of_sets` is the value; k:
    neighbours. floor: the value of N real held-out images; untrained: that of a network before training.
    """

    metric: str
    n: int = Field(gt=0)
    floor: float
    untrained: float | None = None
    features: str | None = None
    network: str | None = None
    network_sha256: str | None = None
    resize: str | None = None
    reference: str | None = None
    reference_sha256: str | None = None
    reference_n: int | None = None
    seeds: str | None = None
    sets: int = 1
    of_sets: Literal["mean", "minimum"] = "mean"
    k: int | None = None
    scores: tuple[StepScore, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distances_are_positive(self) -> MetricScores:
        named = [("floor", self.floor), *(("value", score.value) for score in self.scores)]
        for name, value in named if self.is_distance else ():
            if not value > 0:
                raise ValueError(f"{self.metric} is a distance, and a {name} is {value}: it is above 0")
        return self

    @property
    def is_distance(self) -> bool:
        """Whether it is a Frechet distance, of which laws and ratios can be made."""
        return self.metric not in METRICS or METRICS[self.metric].is_distance


class RunScores(Schema):
    """scores.json of a run: who it is, what it cost, and its metrics, the one that makes the curves first.

    A run that is trained and not judged has none. macs: of one forward pass. images: seen in training. training: MACs
    of that, of its own alone. decoder: MACs that decode an image. Files of earlier versions lack the last three.
    """

    study: str
    run: str
    method: str
    size: str
    seed: int
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0)
    images: int | None = None
    training: float | None = None
    decoder: float | None = None
    metrics: tuple[MetricScores, ...]

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, content: Any) -> Any:
        """Files of earlier versions have one metric, in the keys of the run."""
        if isinstance(content, dict) and "metrics" not in content and "metric" in content:
            moved = {key: content[key] for key in ("metric", "n", "floor", "untrained", "scores") if key in content}
            metrics = [] if content["metric"] == NONE else [moved]
            return {**{key: value for key, value in content.items() if key not in moved}, "metrics": metrics}
        return content

    @property
    def head(self) -> MetricScores | None:
        """The metric that makes the curves of the report; None for a run that is not judged by a distance."""
        first = self.metrics[0] if self.metrics else None
        return first if first is not None and first.is_distance else None

    @property
    def metric(self) -> str:
        """The name of the first metric, "none" without one."""
        return self.metrics[0].metric if self.metrics else "none"

    @property
    def n(self) -> int:
        """The images of a set of the first metric, 0 without one."""
        return self.metrics[0].n if self.metrics else 0

    @property
    def floor(self) -> float:
        """The floor of the first metric, 0 without one."""
        return self.metrics[0].floor if self.metrics else 0.0

    @property
    def untrained(self) -> float | None:
        """The value of an untrained network by the first metric, where it was measured."""
        return self.metrics[0].untrained if self.metrics else None

    @property
    def scores(self) -> tuple[StepScore, ...]:
        """The values of the metric that makes the curves, none without one."""
        return self.head.scores if self.head else ()


class GuidancePoint(Schema):
    """All metrics of one run's samples drawn at one guidance strength, by the metric's name."""

    guidance: float = Field(ge=0)
    metrics: dict[str, StepScore]

    @property
    def steps(self) -> int:
        """The number of steps that the samples were drawn in."""
        return next(iter(self.metrics.values())).steps


class GuidanceScores(Schema):
    """guidance.json of a run: what it scores at the strengths of evaluation.guidance."""

    run: str
    points: tuple[GuidancePoint, ...]


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


class ReleaseTrial(Schema):
    """released-in-rehearsal.json of a run: whether a release of it could be made, and what was found."""

    works: bool
    found: str


class StudyRuns(Schema):
    """study.json of a study: the names of its runs as it was last launched, each after its parent."""

    runs: tuple[str, ...] = Field(min_length=1)
