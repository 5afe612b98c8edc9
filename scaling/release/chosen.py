"""What is released: the weights of a run that were asked for, and all that is known of their making."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.manifest import DataError, Manifest
from models.encoders import Encoder
from models.network import NetworkConfig
from scaling.config.validation import ConfigError, validate
from scaling.plan.costs import cost
from scaling.run.home import RunHome, StudyFolder
from scaling.run.schemas import RunScores, Timings
from scaling.run.spec import RunFile, RunSpec, load_run
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.start import averaged_weights
from scaling.weights.ema import LARGE_ERROR, reconstruct
from scaling.weights.folder import Average, DataFacts, Training
from scaling.work.sampling import find_checkpoint


@dataclass(frozen=True)
class Wanted:
    """Which weights of a run are wanted: of its EMA that is sampled, unless another width or the raw ones are named."""

    sigma_rel: float | None = None
    raw: bool = False
    max_error: float = LARGE_ERROR


@dataclass(frozen=True)
class Chosen:
    """Weights and what is known of their making.

    average: which weights of the run they are. home: the folder of the run, None where a checkpoint lies alone.
    scores: those of the run, None unless they are of exactly these weights. unverified: what could not be verified.
    """

    config: NetworkConfig
    encoder: Encoder
    state: Mapping[str, Tensor]
    spec: RunSpec
    average: Average
    home: RunHome | None
    scores: RunScores | None
    training: Training
    data: DataFacts | None
    unverified: tuple[str, ...]


def choose(path: Path, wanted: Wanted) -> Chosen:
    """The weights in a run's folder or in one of its checkpoints. CheckpointError, ConfigError or DataError."""
    found = checkpoint.load(find_checkpoint(path))
    if "spec" not in found.metadata:
        raise CheckpointError(f"{found.path}: does not say of which run it is: not written by trigscale")
    spec = validate(RunSpec, found.metadata["spec"], f"{found.path}: spec")
    checkpoint.require(found, spec.identity())
    unverified: list[str] = []
    home = RunHome(found.path.parent.parent)
    run = _noted(lambda: _own_run(home, spec), "configuration", unverified)
    manifest = _noted(lambda: _own_data(run, spec), "data", unverified) if run else None
    if run is None:
        unverified.append("data: what the run was trained on is not known without its configuration")
    average, state = _weights(found, home if run else None, spec, wanted)
    last = found.step == spec.recipe.steps
    scored = spec.sampling.teacher_ema if spec.method == "teacher" else spec.sampling.student_ema
    judged = run is not None and last and average.profile == scored and average.profile_error is None
    return Chosen(
        config=spec.network_config(),
        encoder=spec.data.latent_encoder(),
        state=state,
        spec=spec,
        average=average,
        home=home if run else None,
        scores=home.read_scores() if judged else None,
        training=_training(found, spec, home if run else None, run),
        data=_data(manifest) if manifest else None,
        unverified=tuple(unverified),
    )


def _noted(find: Callable[[], RunFile | Manifest], what: str, unverified: list[str]) -> RunFile | Manifest | None:
    """What is found; None where it is not, with the reason among what is unverified."""
    try:
        return find()
    except (UserError, OSError) as error:
        unverified.append(f"{what}: {error}")
        return None


def _own_run(home: RunHome, spec: RunSpec) -> RunFile:
    """config.yaml of the run that the checkpoint says it is of."""
    run = load_run(home.path)
    if run.identity != spec.identity():
        raise ConfigError(f"{home.config}: is of run {run.identity}, the checkpoint is of {spec.identity()}")
    return run


def _own_data(run: RunFile, spec: RunSpec) -> Manifest:
    """The manifest of the shards that the run was trained on."""
    manifest = Manifest.load(run.shards)
    if manifest.content_sha256 != spec.data.content_sha256:
        raise DataError(f"{run.shards}: holds other data than the run was trained on")
    return manifest


def _weights(
    found: Checkpoint, home: RunHome | None, spec: RunSpec, wanted: Wanted
) -> tuple[Average, dict[str, Tensor]]:
    """The weights that are wanted; an average that was not kept is made from the snapshots."""
    updates = int(found.metadata["updates"])
    if wanted.raw:
        return Average(profile=None, updates=updates), found.part("model/")
    sampling = spec.sampling
    profile = wanted.sigma_rel or (sampling.teacher_ema if spec.method == "teacher" else sampling.student_ema)
    if profile in (*spec.ema.sigma_rel, *spec.ema.half_life_images):
        return Average(profile=profile, updates=updates), averaged_weights(found, profile)
    if home is None:
        raise ConfigError(
            f"--sigma-rel {profile}: was not kept in training ({', '.join(map(str, spec.ema.sigma_rel))} were), and "
            "is made from the snapshots of a run: name the folder of the run"
        )
    made = reconstruct(home.path, spec, profile, updates, wanted.max_error)
    return Average(profile=profile, updates=updates, profile_error=made.error), made.state


def _training(found: Checkpoint, spec: RunSpec, home: RunHome | None, run: RunFile | None) -> Training:
    """What the steps up to the checkpoint computed; and how long all steps took, where that is recorded."""
    steps = spec.recipe.steps
    share = found.step / steps if steps else 1.0
    timings: Timings | None = home.read_timings() if home else None
    environment = StudyFolder(home.path.parent).read_environment() if home else None
    devices = run.launch.devices if run else None
    hours = timings.train * devices / 3600 * share if timings and timings.train and devices else None
    machine = environment.machine if environment else {}
    device = machine.get("cpu") if machine.get("device") == "cpu" else machine.get("device")
    return Training(
        study=run.study if run else None,
        images=found.step * spec.recipe.batch,
        train_flops=cost(spec).train_flops * share,
        device_hours=hours and round(hours, 6),
        devices=devices,
        device=str(device) if device else None,
    )


def _data(manifest: Manifest) -> DataFacts:
    return DataFacts(
        dataset=manifest.dataset,
        samples=manifest.samples,
        content_sha256=manifest.content_sha256,
        class_names=manifest.class_names,
    )
