"""What is released: the weights of a run that were asked for, and all that is known of their making."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.manifest import DataError, Manifest
from models.release import CONFIG, SCORES, read_json
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
from scaling.weights.folder import Average, DataFacts, Description, Parent, Training, describe_network, load_model
from scaling.work.sampling import find_checkpoint

T = TypeVar("T")
UNKNOWN = {
    "configuration": "configuration: no config.yaml beside the checkpoint vouches for what it says of itself",
    "data": "data: no manifest of the training data vouches for them",
}


@dataclass(frozen=True)
class Wanted:
    """Which weights of a run are wanted: of its EMA that is sampled, unless another width or the raw ones are named."""

    sigma_rel: float | None = None
    raw: bool = False
    max_error: float = LARGE_ERROR


@dataclass(frozen=True)
class Chosen:
    """Weights and what is known of their making.

    description: of them, but for their type, licence and picture. home: the folder of the run, None where it is not
    known. scores: those of the run, None unless they are of exactly these weights. vae: where the run's VAE lies.
    missing: what of their making cannot be verified here and why, with paths, which the description leaves out.
    """

    description: Description
    state: Mapping[str, Tensor]
    home: RunHome | None = None
    scores: RunScores | None = None
    vae: Path | None = None
    missing: tuple[str, ...] = ()


def choose(path: Path, wanted: Wanted) -> Chosen:
    """The weights in a run's folder, in one of its checkpoints, or at rest. A UserError names the file."""
    return _at_rest(path, wanted) if (path / CONFIG).is_file() else _of_run(path, wanted)


def _at_rest(folder: Path, wanted: Wanted) -> Chosen:
    """Imported weights, an average of `model ema`, or another release, which says itself what is known."""
    if wanted != Wanted():
        raise ConfigError(f"--sigma-rel, --raw: choose among the weights of a run, and {folder} holds one set of them")
    saved = load_model(folder)
    description = saved.description
    if description.parameterization != "trigflow":
        raise ConfigError(f"{folder}: holds EDM2's F: import it again with --as trigflow-teacher")
    saved.release.encoder  # noqa: B018 - of the first version it may be known by name alone, which is a ModelError
    unknown = description.unverified
    if description.source is None and description.data is None and not unknown:
        unknown = (UNKNOWN["data"],)
    kept = description.model_copy(update={"unverified": unknown})
    missing = tuple(f"{folder / CONFIG}: {line}" for line in unknown)
    return Chosen(kept, saved.state(), scores=_kept_scores(folder), missing=missing)


def _kept_scores(folder: Path) -> RunScores | None:
    """Those of a release that is released again."""
    path = folder / SCORES
    kept = read_json(path)["scores"] if path.is_file() else None
    return RunScores.model_validate(kept) if kept else None


def _of_run(path: Path, wanted: Wanted) -> Chosen:
    found = checkpoint.load(find_checkpoint(path.resolve()))
    if "spec" not in found.metadata:
        raise CheckpointError(f"{found.path}: does not say of which run it is: not written by trigscale")
    spec = validate(RunSpec, found.metadata["spec"], f"{found.path}: spec")
    checkpoint.require(found, spec.identity())
    missing: dict[str, str] = {}
    home = RunHome(found.path.parent.parent)
    run = _noted(lambda: _own_run(home, spec), "configuration", missing)
    manifest = _noted(lambda: _own_data(run, spec), "data", missing) if run else None
    if run is None:
        missing["data"] = "where they lie is not known without the configuration"
    average, state = _weights(found, home if run else None, spec, wanted)
    last = found.step == spec.recipe.steps
    scored = spec.sampling.teacher_ema if spec.method == "teacher" else spec.sampling.student_ema
    judged = run is not None and last and average.profile == scored and average.profile_error is None
    description = describe_network(
        spec.network_config(),
        spec.data.pinned_encoder(),
        run=spec,
        average=average,
        training=_training(found, spec, home if run else None, run),
        data=_data(manifest) if manifest else None,
        parent=_parent(run) if run else None,
        unverified=tuple(UNKNOWN[what] for what in missing),
    )
    return Chosen(
        description,
        state,
        home=home if run else None,
        scores=home.read_scores() if judged else None,
        vae=run.vae if run else None,
        missing=tuple(f"{what}: {why}" for what, why in missing.items()),
    )


def _parent(run: RunFile) -> Parent | None:
    """Weights at rest that the run started from, or its teacher."""
    if run.spec.weights is not None:
        licence = load_model(run.weights).description.licence if run.weights and run.weights.is_dir() else None
        return Parent(sha256=run.spec.weights, licence=licence)
    return _parent(load_run(run.teacher_home)) if run.teacher_home and run.teacher_home.is_dir() else None


def _noted(find: Callable[[], T], what: str, missing: dict[str, str]) -> T | None:
    """What is found; None where it is not, with the reason in `missing`."""
    try:
        return find()
    except (UserError, OSError) as error:
        missing[what] = str(error)
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
    timings = home.read_timings() if home else None
    environment = StudyFolder(home.path.parent).read_environment() if home else None
    hours = _hours(timings, run)
    machine = environment.machine if environment else {}
    device = machine.get("device")
    if device == "cpu":
        device = f"{machine.get('cpu')}, {timings.threads if timings else '?'} threads"
    teacher = load_run(run.teacher_home) if run and run.teacher_home and run.teacher_home.is_dir() else None
    taught = _hours(RunHome(run.teacher_home).read_timings(), teacher) if teacher and run and run.teacher_home else None
    return Training(
        study=run.study if run else None,
        images=found.step * spec.recipe.batch,
        train_flops=cost(spec).train_flops * share,
        device_hours=hours and round(hours * share, 6),
        devices=run.launch.devices if run else None,
        device=str(device) if device else None,
        teacher_flops=cost(teacher.spec).train_flops if teacher else None,
        teacher_device_hours=taught and round(taught, 6),
    )


def _hours(timings: Timings | None, run: RunFile | None) -> float | None:
    """Hours of all training steps times devices, where they were recorded."""
    return timings.train * run.launch.devices / 3600 if timings and timings.train and run else None


def _data(manifest: Manifest) -> DataFacts:
    return DataFacts(
        dataset=manifest.dataset,
        samples=manifest.samples,
        content_sha256=manifest.content_sha256,
        class_names=manifest.class_names,
    )
