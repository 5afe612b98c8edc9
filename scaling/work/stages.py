"""The stages of one run."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from data_pipeline.files import write_bytes_atomic
from data_pipeline.manifest import DataError
from models.family import count_macs, count_parameters
from scaling.config.sections import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.data.opened import open_loading
from scaling.evaluation.score import METRIC, Real, score
from scaling.run.clock import Clock
from scaling.run.devices import pick_device
from scaling.run.home import RunHome, sound, write_model
from scaling.run.randomness import derive_seed
from scaling.run.samples import Samples, maker, read_samples
from scaling.run.schemas import RunScores, StepScore, Timings
from scaling.run.spec import RunFile, RunSpec, load_run
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import generate, untrained
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.loop import train
from scaling.training.sharding.world import World, joined
from scaling.training.start import Origin, averaged_weights
from scaling.weights.teacher import planned_weights
from scaling.weights.trained import load_network
from scaling.work.local_copy import nearest_shards
from scaling.work.stopping import StopRequest


def run(folder: Path, stop: StopRequest) -> None:
    """All stages of the run in `folder` that are not done yet; on several ranks, the first one's alone after training.

    Whoever calls it holds the run's lock. ConfigError where the folder is another run's.
    """
    config, home = load_run(folder), RunHome(folder)
    if config.spec.name() != home.name:
        raise ConfigError(f"{home.config}: is of run {config.spec.name()}: launch the study again to write it anew")
    if os.environ.get("RANK", "0") == "0" and home.is_done():
        return None
    stop.within(config.launch.stop_seconds)
    torch.set_num_threads(config.launch.threads)
    with joined(pick_device(config.launch)) as world:
        if not world.leads:
            return _train(config, folder, world, stop)
        home.clear_ways()
        clock = Clock(home.timings, Timings)
        clock.start(clock.content.model_copy(update={"threads": config.launch.threads}))
        with _timed(clock, "train"):
            _train(config, folder, world, stop)
    final = checkpoint.load(checkpoint.path_of(home.checkpoints, config.spec.recipe.steps))
    with _timed(clock, "sample"):
        samples = _sample(config, home, final, world.device, stop)
    with _timed(clock, "evaluate"):
        _evaluate(config, home, samples, world.device)
    return None


@contextmanager
def _timed(clock: Clock[Timings], stage: str) -> Iterator[None]:
    """Add the time of the block to the stage, and the most memory that the process ever took."""
    with clock.stage(stage):
        try:
            yield
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            known = clock.content.peak_memory_bytes or 0
            clock.content = clock.content.model_copy(update={"peak_memory_bytes": max(peak, known)})


def _train(config: RunFile, home: Path, world: World, stop: StopRequest) -> None:
    loading = config.loading
    reader = open_loading(nearest_shards(config.shards), loading, lenient=loading.on_bad_shard == "skip")
    if reader.manifest.content_sha256 != config.spec.data.content_sha256:
        raise DataError(f"{config.shards}: holds other data than the run was planned with: launch the study again")
    train(config.spec, home, reader, _origin(config), config.launch, world, stop, loading, config.vae)


def _origin(config: RunFile) -> Origin | None:
    """What the run starts from: of a student its teacher's average, of a teacher its weights at rest, if any."""
    recipe = config.spec.recipe
    if config.teacher_home is not None and isinstance(recipe, StudentRecipe):
        return _teacher(config.teacher_home, recipe.teacher_ema)
    if config.spec.weights is not None:
        assert config.weights is not None, "a run that starts from weights says where they lie"
        saved = planned_weights(config.weights, config.spec.weights)
        return Origin(saved.config, saved.state())
    return None


def _teacher(home: Path, profile: float) -> Origin:
    """The network of the teacher's last checkpoint; an earlier one would make another student."""
    spec = load_run(home).spec
    try:
        found = checkpoint.load(checkpoint.path_of(RunHome(home).checkpoints, spec.recipe.steps))
        checkpoint.require(found, spec.identity())
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Or delete {RunHome(home).scores}, and the study launched again trains the teacher to its end"
        ) from error
    return Origin(spec.network_config(), averaged_weights(found, profile))


def _sample(
    config: RunFile, home: RunHome, final: Checkpoint, device: torch.device, stop: StopRequest
) -> dict[int, Samples]:
    """The samples by number of steps: those that are there and sound, and new ones for the rest."""
    home.samples.mkdir(exist_ok=True)
    network = load_network(final, config.spec, device)
    count, found = config.spec.evaluation.samples, {}
    for steps in sampler_steps(config.spec):
        path, made_by = home.sample(steps), maker(home.name, steps)
        there = sound(path, partial(read_samples, path, made_by)) if path.exists() else None
        if there is None:
            made = generate(config.spec, network, steps, count, device, stop, vae=config.vae)
            there = Samples(*made, made_by)
            write_bytes_atomic(path, there.to_npz())
        found[steps] = there
    return found


def _evaluate(config: RunFile, home: RunHome, samples: Mapping[int, Samples], device: torch.device) -> None:
    spec = config.spec
    real = None if spec.evaluation.metric == "none" else Real.load(config.reference, config.reference.stem)
    scores = tuple(_scores(config.spec, samples, real)) if real else ()
    blank = None
    if spec.method == "teacher" and real:
        images = untrained(spec, spec.sampling.teacher_steps, real.samples, device, vae=config.vae)
        blank = score(images, real, 0, 0)["fd"]
    network = spec.network_config()
    result = RunScores(
        study=config.study,
        run=spec.name(),
        method=spec.method,
        size=spec.size,
        seed=spec.seed,
        parameters=count_parameters(network),
        macs=count_macs(network),
        metric=METRIC if real else "none",
        n=spec.evaluation.samples,
        floor=real.floor if real else 0.0,
        untrained=blank,
        scores=scores,
    )
    write_model(home.scores, result)


def _scores(spec: RunSpec, samples: Mapping[int, Samples], real: Real) -> Iterator[StepScore]:
    for steps, nfe in sampler_steps(spec).items():
        seed = derive_seed(spec.identity(), "resample", steps)
        judged = score(samples[steps].images, real, spec.evaluation.resamples, seed)
        yield StepScore(steps=steps, nfe=nfe, **judged)
