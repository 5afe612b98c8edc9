"""The stages of one run."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from data_pipeline.manifest import DataError
from scaling.config.recipes import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.data.opened import open_loading
from scaling.run.clock import Clock
from scaling.run.devices import pick_device
from scaling.run.home import RunHome
from scaling.run.schemas import Timings
from scaling.run.spec import RunFile, load_run
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.loop import train
from scaling.training.origin import AtRest, Averaged, Origin
from scaling.training.sharding.world import World, joined
from scaling.weights.teacher import planned_weights
from scaling.work.guidance import judge_guidance
from scaling.work.judging import draw_samples, evaluate
from scaling.work.local_copy import nearest_shards
from scaling.work.stopping import StopRequest


def run(folder: Path, stop: StopRequest) -> None:
    """All stages of the run in `folder` that are not done yet, on all ranks; the first one writes.

    Whoever calls it holds the run's lock. ConfigError where the folder is another run's.
    """
    config, home = load_run(folder), RunHome(folder)
    if config.spec.name() != home.name:
        raise ConfigError(f"{home.config}: is of run {config.spec.name()}: launch the study again to write it anew")
    if os.environ.get("RANK", "0") == "0" and home.is_done():
        return
    torch.set_num_threads(config.launch.threads)
    with stop.within(config.launch.stop_seconds), joined(pick_device(config.launch)) as world:
        clock = _clock(config, home) if world.leads else None
        with _timed(clock, "train"):
            _train(config, folder, world, stop)
        with _timed(clock, "sample"):
            draw_samples(config, home, world, stop)
        with _timed(clock, "evaluate"):
            judge_guidance(config, home, world, stop)
            evaluate(config, home, world, stop)


def _clock(config: RunFile, home: RunHome) -> Clock[Timings]:
    home.clear_ways()
    clock = Clock(home.timings, Timings)
    clock.start(clock.content.model_copy(update={"threads": config.launch.threads}))
    return clock


@contextmanager
def _timed(clock: Clock[Timings] | None, stage: str) -> Iterator[None]:
    """Add the time of the block to the stage, and the most memory that the process ever took; of rank 0 alone."""
    if clock is None:
        yield
        return
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
    origin, start = _origin(config, world), _start(config, world)
    guide = _at_rest(config.guide, config.spec.guide, world)
    train(config.spec, home, reader, origin, config.launch, world, stop, loading, config.vae, start, guide)


def _origin(config: RunFile, world: World) -> Origin | None:
    """What the run starts from: of a student its teacher's average, of a teacher its weights at rest, if any."""
    recipe = config.spec.recipe
    if config.teacher_home is not None and isinstance(recipe, StudentRecipe):
        return _parent(config.teacher_home, recipe.teacher_ema, world)
    return _at_rest(config.weights, config.spec.weights, world)


def _start(config: RunFile, world: World) -> Origin | None:
    """The student that a student goes on from: a released one, or of sCD+VSD the average that sCD is sampled with."""
    if config.student_home is not None:
        return _parent(config.student_home, config.spec.sampling.student_ema, world)
    if not isinstance(config.spec.recipe, StudentRecipe):
        return None
    return _at_rest(config.weights, config.spec.weights, world)


def _at_rest(folder: Path | None, sha256: str | None, world: World) -> Origin | None:
    """The weights at rest that the run was planned with, if any; the first rank looks at every byte."""
    if sha256 is None:
        return None
    assert folder is not None, "a run that takes weights says where they lie"
    saved = planned_weights(folder, sha256)
    if world.leads:
        saved.verify()
    return AtRest(saved.release)


def _parent(home: Path, profile: float, world: World) -> Origin:
    """The network of the last checkpoint of another run; an earlier one would make another student."""
    spec = load_run(home).spec
    try:
        path = checkpoint.path_of(RunHome(home).checkpoints, spec.recipe.steps)
        found = checkpoint.load(path, world.rank, world.size)
        checkpoint.require(found, spec.identity())
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Or delete {RunHome(home).scores}, and the study launched again trains that run to its end"
        ) from error
    return Averaged(spec.network_config(), found, profile)
