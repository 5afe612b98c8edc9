"""The sections of a study file beside its recipes: data, averages, sampling, evaluation, launch.

Every key is a field below, with its unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from scaling.config.metrics import METRICS, NEIGHBOURS, NONE, TRUTH, Metric, SpaceName, get_metric
from scaling.config.recipes import PROFILE, Guidance, Positive, PositiveFloat, StudentRecipe, later
from scaling.config.validation import Section, each_once

Strategy = Literal["ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Precision = Literal["fp32", "bf16", "fp16"]
RelativeWidth = Annotated[float, Field(gt=0, lt=0.28)]  # a power-function profile can be no wider
EMBEDDED = "fashion"  # the source that is part of the package
MIXTURE = "mixture"  # the source that is drawn from a known distribution
LEAST_SAMPLES = 100  # images of a set that a study draws


class Loading(Section):
    """How samples reach training; which they are it changes only where shards are damaged."""

    workers: int = Field(
        default=1, ge=0, le=256, description="threads a device that read ahead; 0: the training thread reads"
    )
    read_ahead: Annotated[int, Field(gt=0, le=1024)] = Field(
        default=2, description="microbatches a device that are read ahead"
    )
    cache: Path | None = Field(
        default=None, description="folder for copies of remote shards; null: cache in launch.folder"
    )
    cache_gb: PositiveFloat = Field(default=100.0, description="most that the copies may take, 10^9 bytes")
    on_bad_shard: Literal["stop", "skip"] = Field(
        default="stop", description="what a damaged or missing shard does: end the run, or be set aside and counted"
    )
    bad_share: float = Field(
        default=0.01, ge=0, lt=1, description="share of all samples that may lie in shards set aside before a run ends"
    )

    @property
    def cache_bytes(self) -> int:
        """Bytes that the copies may take."""
        return int(self.cache_gb * 1e9)

    def within(self, folder: Path) -> Loading:
        """The same, its cache a folder that is named: one in `folder` unless the study names another."""
        kept = {name: getattr(self, name) for name in Loading.model_fields}
        return Loading.model_validate({**kept, "cache": (self.cache or folder / "cache").resolve()})


class Data(Loading):
    """Where training samples come from, and how they reach training."""

    source: str = Field(
        default=EMBEDDED,
        description='"fashion" (embedded Fashion-MNIST), "mixture" (Gaussian, of known flow), a folder made by '
        "`trigscale data pack`, or its remote address",
    )
    held_out: str | None = Field(
        default=None, description="folder of held-out shards; not for the embedded set, which has its own"
    )
    encoder: str = Field(
        default="fashion-s2d-v1",
        description="encoder between images and latents: a name, or a file made by `trigscale data info --fit-encoder`",
    )
    vae: Path | None = Field(
        default=None, description="folder of the encoder's VAE, as diffusers saves it; null: the encoder is no VAE"
    )
    window_blocks: int = Field(
        default=0, ge=0, description="runs of samples that are mixed at a time; 0: all samples are, a full shuffle"
    )
    window_block: int = Field(
        default=64, ge=0, description="samples of such a run, which lie one after another; 0: a whole shard"
    )

    @model_validator(mode="after")
    def _has_held_out(self) -> Data:
        if (self.source in (EMBEDDED, MIXTURE)) != (self.held_out is None):
            raise ValueError(
                "held_out: name held-out shards beside a source of your own, and none beside the embedded set"
            )
        if self.source == MIXTURE and self.encoder != "fashion-s2d-v1":
            raise ValueError(
                f"encoder: {self.encoder}, but fashion-s2d-v1 alone shows the mixture's latents of 4x8x8: remove it"
            )
        return self


def foreign_ruler(source: str, metric: str) -> str | None:
    """What to know of distances by features of other images than those that are judged; None where all is well."""
    if metric not in METRICS or METRICS[metric].space != "fashion" or source == EMBEDDED:
        return None
    return (
        f"These images ({source}) are judged by a classifier of Fashion-MNIST, which was never trained on such: "
        "distances compare runs of this study, and say little of how the images look; a ruler of their own is made by "
        "`trigscale ruler train`, for evaluation.metric fd-own"
    )


class Ema(Section):
    """Averages of the weights that are kept while training."""

    sigma_rel: tuple[RelativeWidth, ...] = Field(
        default=(0.05, 0.10), description="relative widths of the power-function profiles"
    )
    half_life_images: tuple[Positive, ...] = Field(
        default=(), description="half-lives of plain exponential averages, images seen"
    )

    @property
    def count(self) -> int:
        """How many averages are kept, each as large as the network."""
        return len(self.sigma_rel) + len(self.half_life_images)

    @model_validator(mode="after")
    def _keeps_one(self) -> Ema:
        each_once("sigma_rel", self.sigma_rel, "an average")
        each_once("half_life_images", self.half_life_images, "an average")
        if not self.sigma_rel and not self.half_life_images:
            raise ValueError("sigma_rel: name one profile at least, or a half-life in half_life_images")
        return self


class Sampling(Section):
    """How samples are drawn."""

    teacher_steps: Positive = Field(
        default=32, description="Heun steps of the teacher; NFE is twice that less one, and twice again with guidance"
    )
    teacher_guidance: Annotated[float, Field(ge=1)] = Field(
        default=1.0, description="guidance strength a teacher is sampled with; 1: none"
    )
    student_steps: tuple[Literal[1, 2], ...] = Field(
        default=(1, 2), min_length=1, description="numbers of steps a student is sampled with, unless it has segments"
    )
    student_guidance: dict[int, Guidance] = Field(
        default_factory=dict,
        description="guidance strength of students trained with guidance: {number of steps: strength}",
    )
    intermediate_t: float = Field(default=1.1, gt=0, lt=1.5645, description="time of the second step, radians")
    teacher_ema: PositiveFloat = Field(default=0.05, description=f"EMA a teacher is sampled with: {PROFILE}")
    student_ema: PositiveFloat = Field(default=0.05, description=f"EMA a student is sampled with: {PROFILE}")
    batch: Positive = Field(default=250, description="images a forward pass")
    seed: int = Field(default=0, ge=0, description="seed of the sampling noise, the same for every run of the study")

    @model_validator(mode="after")
    def _steps_once(self) -> Sampling:
        each_once("student_steps", self.student_steps)
        return self


def student_steps(recipe: StudentRecipe, sampling: Sampling) -> tuple[int, ...]:
    """The numbers of steps a student is sampled with: those of the study, or its segments."""
    return sampling.student_steps if recipe.segments == 1 else (recipe.segments,)


def _known_metrics(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The names, found known; ValueError for others, repeated ones, and a first one that cannot make curves."""
    names = (value,) if isinstance(value, str) else value
    if names == (NONE,):
        return NONE
    metrics = [get_metric(name) for name in names]
    if not metrics or len(set(names)) != len(names):
        raise ValueError(f"name each metric once, or {NONE} for a study that is not judged")
    if not metrics[0].is_distance:
        raise ValueError(
            f"{names[0]} cannot be the first: laws and ratios are made of it: name a distance (fd-..., fid)"
        )
    return value


class NetworkFiles(Section):
    """Where the networks lie whose features judge; null: where each is looked for."""

    ruler: Path | None = None
    inception: Path | None = None
    dinov2: Path | None = None


class Evaluation(Section):
    """How samples are judged."""

    metric: Annotated[str | tuple[str, ...], AfterValidator(_known_metrics)] = Field(
        default="fd-fashion",
        description=f"metric, or a list of which the first makes the curves; none: not judged. {', '.join(METRICS)}",
    )
    samples: int = Field(default=5000, ge=LEAST_SAMPLES, le=50000, description="generated images of a set, N")
    repeats: Annotated[int, Field(gt=0, le=1000)] = Field(
        default=1, description="sets of samples that are judged, each with seeds of its own"
    )
    resamples: int = Field(
        default=200,
        ge=20,
        le=100_000,
        description="sets that are simulated for a distance's error where N is below 2 x features",
    )
    of_sets: Literal["mean", "minimum"] = later(
        "mean", "which value of several sets counts; minimum of 3 is EDM2's protocol"
    )
    ruler: Path | None = later(None, "file of fd-own's network, made by `trigscale ruler train`; for metrics ...-own")
    inception: Path | None = later(None, "file of Inception's weights; null: where `trigscale doctor` looks for them")
    dinov2: Path | None = later(None, "folder of DINOv2 ViT-L/14 in Hugging Face's form; null: its cache")
    resize: Literal["clean", "legacy-tf", "legacy-torch"] = later(
        "clean", "how images reach the size that Inception sees"
    )
    neighbours: Positive = later(3, "k of precision, recall, density and coverage")
    slopes: bool = later(False, "measure how fast teachers' f(x, t) changes along x and along t, by time (stability)")
    guidance: tuple[Guidance, ...] = later(
        (), "guidance strengths at which the teacher and guided students are judged besides, by every metric"
    )

    @model_validator(mode="after")
    def _guidance_is_judged(self) -> Evaluation:
        each_once("guidance", self.guidance, "a strength")
        if self.guidance and not set(self.spaces) - {TRUTH}:
            raise ValueError("guidance: no metric judges images at these strengths: name one, or remove them")
        return self

    @model_validator(mode="after")
    def _neighbours_are_there(self) -> Evaluation:
        used = [metric.name for metric in self.metrics if metric.kind in NEIGHBOURS]
        if used and self.neighbours >= self.samples:
            raise ValueError(
                f"neighbours: {self.neighbours} of each image are wanted by {used[0]}, and a set has {self.samples} "
                "images (samples): lower it; the usual is 3 or 5"
            )
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics, that of the curves first."""
        names = (self.metric,) if isinstance(self.metric, str) else self.metric
        return () if names == (NONE,) else tuple(METRICS[name] for name in names)

    @property
    def spaces(self) -> tuple[SpaceName, ...]:
        """The spaces of features of all metrics, each once."""
        return tuple(dict.fromkeys(metric.space for metric in self.metrics))

    @property
    def files(self) -> NetworkFiles:
        """Where the networks lie."""
        return NetworkFiles(ruler=self.ruler, inception=self.inception, dinov2=self.dinov2)

    def without_files(self) -> Evaluation:
        """The same without where networks lie, which may be moved: a run knows them by their hashes."""
        return self.model_copy(update={"ruler": None, "inception": None, "dinov2": None})


class Launch(Section):
    """How a study is run; nothing here changes a result."""

    folder: Path = Field(default=Path("runs"), description="folder that holds the studies")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where there is one")
    threads: Annotated[int, Field(gt=0, le=1024)] = Field(
        default=1, description="CPU threads a run; another number may round otherwise, as another processor may"
    )
    workers: int = Field(
        default=0, ge=0, description="runs at once; 0: CPU cores / (threads x devices), or one on GPUs"
    )
    checkpoint_seconds: PositiveFloat = Field(default=20.0, description="seconds between checkpoints")
    checkpoint_keep: Positive = Field(default=2, description="newest checkpoints that are kept")
    checkpoint_keep_steps: int = Field(
        default=0, ge=0, description="checkpoints after every so many steps are kept for good; 0: none"
    )
    ema_snapshot_steps: int = Field(
        default=0, ge=0, description="steps between snapshots of the averages, for `trigscale model ema`; 0: none"
    )
    log_every: Positive = Field(default=20, description="steps between lines of metrics.jsonl")
    grid_steps: int = Field(default=0, ge=0, description="steps between grids of samples; 0: none")
    tensorboard: bool = Field(default=False, description="write the metrics for TensorBoard too")
    wandb: str | None = Field(
        default=None, description="project of Weights & Biases that the metrics go to; null: none"
    )
    profile: tuple[Positive, Positive] | None = Field(
        default=None, description="first and last step of which a profile is recorded; null: none"
    )
    memory_snapshot: bool = Field(
        default=False, description="record every allocation of the GPU's memory in the steps of `profile`"
    )
    accelerator: str | None = Field(default=None, description="name of the device that `study plan` counts with")
    devices: Positive = Field(default=1, description="devices a run")
    strategy: Literal["auto", Strategy] = Field(
        default="auto", description="how weights and optimizer state lie on the devices of a run"
    )
    shard_devices: int = Field(
        default=0, ge=0, description="devices that share one copy of the weights under hsdp; 0: those of a machine"
    )
    compile: bool = Field(
        default=False, description="compile the blocks of the network: minutes once, then faster steps"
    )
    stop_seconds: PositiveFloat = Field(
        default=25.0,
        description="seconds that a run asked to stop may take to save its state; torchrun and SLURM kill after 30",
    )
    microbatch: int = Field(
        default=0, ge=0, description="images a device takes in one pass; 0 means the batch / devices"
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute blocks again in the backward pass: less memory, about a forward more time"
    )
