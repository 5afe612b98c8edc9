"""The sections of a study file: recipes, data, averages, sampling, evaluation, launch.

Every key is a field below, with its unit; the defaults of recipes are the paper's (sCM, Lu & Song 2025).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from scaling.config.metrics import METRICS, NONE, Metric, SpaceName, get_metric
from scaling.config.validation import Section

Method = Literal["teacher", "scd", "sct", "vsd", "scd_vsd"]
METHODS: tuple[Method, ...] = get_args(Method)
LABELS: dict[Method, str] = {"teacher": "teacher", "sct": "sCT", "scd": "sCD", "vsd": "VSD", "scd_vsd": "sCD+VSD"}
Strategy = Literal["ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Precision = Literal["fp32", "bf16", "fp16"]

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0)]
RelativeWidth = Annotated[float, Field(gt=0, lt=0.28)]  # a power-function profile can be no wider
EMBEDDED = "fashion"  # the source that is part of the package
MIXTURE = "mixture"  # the source that is drawn from a known distribution
MOST_DOUBLINGS = 12  # of the number of steps: 2^13 of them, at a relative distance of 1e-4
LEAST_SAMPLES = 100  # images of a set that a study draws
PROFILE = "its sigma_rel (below 1), or its half-life in images (from 1 on)"


def later(default: Any, description: str) -> Any:
    """A key that came after the first runs: where it says nothing new it is left out of what runs are known by."""
    return Field(default=default, description=description, exclude_if=lambda value: value == default)


class Recipe(Section):
    """How a network is trained."""

    steps: Positive = Field(description="optimizer steps")
    batch: Positive = Field(default=2048, description="images a step, over all devices")
    lr: PositiveFloat = Field(description="peak learning rate alpha_ref")
    lr_decay_steps: Positive = Field(default=70000, description="t_ref: steps after which lr falls as 1/sqrt(step)")
    lr_rampup_images: int = Field(default=10_000_000, ge=0, description="images over which lr rises linearly from 0")
    p_mean: float = Field(description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(description="standard deviation of log(sigma) in training, ln units")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of features dropped in training")
    dropout_max_resolution: Positive | None = Field(
        default=None, description="finest resolution, in latent pixels, whose blocks drop features; null: all do"
    )


class TeacherRecipe(Recipe):
    """How a TrigFlow diffusion model is trained."""

    steps: int = Field(ge=0, description="optimizer steps; 0: the network of teacher.weights as it is")
    p_mean: float = Field(default=-0.4, description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(default=1.0, description="standard deviation of log(sigma) in training, ln units")
    label_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of samples trained without their label; guidance needs some"
    )


class Teacher(TeacherRecipe):
    """The TrigFlow diffusion model of a study, and what it starts from."""

    weights: Path | None = Field(
        default=None, description="folder of a network at rest that the teacher starts from; null: random weights"
    )
    guide: Path | None = Field(
        default=None,
        description="folder of a weaker network at rest, away from which the teacher of students is guided "
        "(autoguidance); null: from itself without labels",
    )


class StudentRecipe(Recipe):
    """A continuous-time consistency model (Algorithm 1)."""

    p_mean: float = Field(default=-0.8, description="mean of log(sigma) in training, ln units")
    p_std: PositiveFloat = Field(default=1.6, description="standard deviation of log(sigma) in training, ln units")
    dropout_max_resolution: Positive | None = Field(
        default=16, description="finest resolution, in latent pixels, whose blocks drop features; null: all do"
    )
    teacher_ema: PositiveFloat = Field(
        default=0.05, description=f"the teacher's EMA that starts and is distilled: {PROFILE}"
    )
    warmup_steps: int = Field(
        default=10000, ge=0, description="H: steps over which the tangent's second term rises to full"
    )
    tangent: Literal["normalize", "clip", "raw"] = Field(
        default="normalize", description="g/(||g||+c), g limited to [-1, 1], or g as it is"
    )
    tangent_norm: Literal["l2", "rms"] = Field(default="l2", description="which norm of a sample's tangent ||g|| is")
    tangent_constant: PositiveFloat = Field(default=0.1, description="c of the tangent normalisation")
    guidance: tuple[Guidance, Guidance] | None = Field(
        default=None, description="interval of the guidance strength s ~ U[low, high] that is distilled; null: none"
    )

    derivative: Literal["rearranged", "plain", "central", "backward"] = later(
        "rearranged",
        "dF/dt by forward mode with cos t sin t inside the JVP or (plain) behind it, or by a difference of F: central, "
        "or backward, the discrete limit",
    )
    derivative_step: PositiveFloat = later(0.01, "step of central and backward differences, radians")
    adaptive_weighting: bool = later(
        True, "train the weighting w(t) beside the model; false: the prior 1/(sigma_d tan t) alone"
    )
    discrete_steps: int | None = later(
        None,
        "N: discrete-time consistency model between neighbours of N of EDM's noise levels (rho 7); null: continuous",
    )
    discrete_double_every: Positive | None = later(
        None, "steps after which neighbours come twice as near, discrete-time training as in ECT; null: continuous"
    )

    segments: int = later(
        1, "M: the trajectory is cut into M pieces of equal time, each led to its own end, and sampled in M steps"
    )
    flow_map: bool = later(
        False, "tell the network where to go as well: any time before t instead of 0 (MeanFlow's objective)"
    )
    flow_map_same: float = later(0.5, "share of samples of a flow map that stay where they are and learn the velocity")
    guidance_sigma: tuple[Guidance, Guidance] | None = later(
        None, "noise levels [low, high] outside which the teacher is not guided in distillation; null: none is"
    )

    @property
    def is_discrete(self) -> bool:
        """Whether it compares two times of a trajectory, and has no tangent."""
        return self.discrete_steps is not None or self.discrete_double_every is not None

    @model_validator(mode="after")
    def _interval_rises(self) -> StudentRecipe:
        if self.guidance is not None and self.guidance[0] > self.guidance[1]:
            raise ValueError(f"guidance: {list(self.guidance)} falls: write [low, high]")
        if self.guidance_sigma is not None and self.guidance is None:
            raise ValueError(
                "guidance_sigma: says where guidance is given, and guidance is null: set that or remove this"
            )
        if self.guidance_sigma is not None and not self.guidance_sigma[0] < self.guidance_sigma[1]:
            raise ValueError(f"guidance_sigma: {list(self.guidance_sigma)} holds no noise level: write [low, high]")
        return self

    @model_validator(mode="after")
    def _ends_mean_something(self) -> StudentRecipe:
        if self.segments < 1:
            raise ValueError(
                f"segments: {self.segments} leaves nothing to train: M counts the pieces of the trajectory, which are "
                "the steps of sampling too; 1 is a consistency model as it is"
            )
        if self.flow_map and self.segments > 1:
            raise ValueError(
                f"segments: {self.segments} fixes where each time leads, which a flow_map is told: keep one of them"
            )
        if self.flow_map and self.is_discrete:
            raise ValueError("flow_map: learns the velocity where it stays, and has no time before: keep it continuous")
        if not 0 <= self.flow_map_same < 1:
            raise ValueError(f"flow_map_same: {self.flow_map_same} is no share from 0 to below 1")
        return self

    @model_validator(mode="after")
    def _discrete_means_something(self) -> StudentRecipe:
        if not self.is_discrete:
            return self
        if self.discrete_steps is not None and self.discrete_double_every is not None:
            raise ValueError(
                "discrete_steps: fixes the distance that discrete_double_every halves: keep one of the two"
            )
        if self.discrete_steps is not None and self.discrete_steps < 2:
            raise ValueError(
                f"discrete_steps: {self.discrete_steps} leaves no time between noise and data whose prediction could "
                "be the target: write 2 or more; the paper's are 256 to 4096"
            )
        every = self.discrete_double_every
        if every is not None and self.steps > MOST_DOUBLINGS * every:
            raise ValueError(
                f"discrete_double_every: {every} doubles more than {MOST_DOUBLINGS} times in {self.steps} steps, and "
                f"float32 cannot tell such neighbours: write {-(-self.steps // MOST_DOUBLINGS)} or more"
            )
        if self.derivative != "rearranged":
            raise ValueError(f"derivative: {self.derivative}, but discrete-time training has no derivative: remove one")
        return self


class ConsistencyRecipe(StudentRecipe):
    """Consistency distillation and training: sCD and sCT."""

    start: Literal["teacher", "scratch"] = Field(
        default="teacher", description="initial weights: the teacher's EMA, or random"
    )


class Student(ConsistencyRecipe):
    """A consistency model of a study, and what it starts from."""

    weights: Path | None = Field(
        default=None, description="folder of a released student that this one goes on from; null: what start says"
    )

    @model_validator(mode="after")
    def _one_start(self) -> Student:
        if self.weights is not None and self.start == "scratch":
            raise ValueError(f"start: scratch, but weights names {self.weights} to start from: leave one of them out")
        return self


GUIDED = {"teacher_ema", "guidance", "guidance_sigma"}  # what every distilled student may say of its teacher
VSD_P_MEAN = Field(default=0.4, description="mean of log(sigma) in the VSD loss, ln units")
VSD_P_STD = Field(default=2.0, description="standard deviation of log(sigma) in the VSD loss, ln units")


class VsdRecipe(StudentRecipe):
    """Variational score distillation of a one-step generator, which starts from the teacher.

    p_mean and p_std are of the loss of the fake score; of a consistency model's own keys none has a meaning here.
    """

    vsd_p_mean: float = VSD_P_MEAN
    vsd_p_std: PositiveFloat = VSD_P_STD

    @model_validator(mode="after")
    def _has_no_tangent(self) -> VsdRecipe:
        meaningless = StudentRecipe.model_fields.keys() - Recipe.model_fields.keys() - GUIDED
        for key in sorted(meaningless):
            if getattr(self, key) != StudentRecipe.model_fields[key].default:
                raise ValueError(f"{key}: is of consistency models, and vsd trains none: remove it, or choose scd_vsd")
        return self


class ScdVsdRecipe(StudentRecipe):
    """Consistency distillation joined with variational score distillation, which starts from the sCD student.

    p_mean and p_std are of the sCD loss and of the loss of the fake score.
    """

    vsd_p_mean: float = VSD_P_MEAN
    vsd_p_std: PositiveFloat = VSD_P_STD
    vsd_weight: PositiveFloat = Field(default=1.0, description="lambda: weight of the VSD loss beside that of sCD")

    @model_validator(mode="after")
    def _leads_to_the_data(self) -> ScdVsdRecipe:
        for key, told in (("segments", self.segments > 1), ("flow_map", self.flow_map)):
            if told:
                raise ValueError(f"{key}: the VSD loss judges what one step makes of noise: remove it, or choose scd")
        return self


class Loading(Section):
    """How samples reach training; which they are it changes only where shards are damaged."""

    workers: int = Field(default=1, ge=0, description="threads a device that read ahead; 0: the training thread reads")
    read_ahead: Positive = Field(default=2, description="microbatches a device that are read ahead")
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
    repeats: Positive = Field(default=1, description="sets of samples that are judged, each with seeds of its own")
    resamples: int = Field(
        default=200, ge=20, description="sets that are simulated for a distance's error where N is below 2 x features"
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
    threads: Positive = Field(
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
