"""How networks are trained: the recipes of a study file, one section a method.

Every key is a field below, with its unit; the defaults are the paper's (sCM, Lu & Song 2025).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from scaling.config.validation import Section

Method = Literal["teacher", "scd", "sct", "vsd", "scd_vsd"]
METHODS: tuple[Method, ...] = get_args(Method)
LABELS: dict[Method, str] = {"teacher": "teacher", "sct": "sCT", "scd": "sCD", "vsd": "VSD", "scd_vsd": "sCD+VSD"}

OptimizerName = Literal["adam", "radam"]

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0)]
PROFILE = "its sigma_rel (below 1), or its half-life in images (from 1 on)"
MOST_DISCRETE = 2**16  # of N: neighbours nearer than some 1e-4 of their noise level are one to float32
MOST_SEGMENTS = 1000
MOST_DOUBLINGS = 12  # of the number of steps: 2^13 of them, at a relative distance of 1e-4


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
    lr_cooldown: Annotated[float, Field(ge=0, le=1)] = later(
        0.0, "share of the steps, the last ones, over which lr falls linearly to almost 0"
    )
    optimizer: OptimizerName = later(
        "adam", "Adam, or RAdam, whose first steps are rectified so that they need no ramp-up"
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
        default=None,
        description="folder of a network at rest that the teacher starts from, or hf:OWNER/NAME@REVISION on the "
        "Hugging Face Hub; null: random weights",
    )
    guide: Path | None = Field(
        default=None,
        description="folder, or hf:OWNER/NAME@REVISION, of a weaker network at rest, away from which the teacher of "
        "students is guided (autoguidance); null: from itself without labels",
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
        if self.segments > MOST_SEGMENTS:
            raise ValueError(f"segments: {self.segments} steps for each sample: write {MOST_SEGMENTS} or less")
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
        if self.discrete_steps is not None and self.discrete_steps > MOST_DISCRETE:
            raise ValueError(
                f"discrete_steps: {self.discrete_steps} noise levels lie so near that float32 cannot tell neighbours: "
                f"write {MOST_DISCRETE} or less; the paper's are 256 to 4096"
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
        default=None,
        description="folder, or hf:OWNER/NAME@REVISION, of a released student that this one goes on from; null: what "
        "start says",
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
