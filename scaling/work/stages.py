"""The stages of one run."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.arrays import load_arrays
from data_pipeline.files import write_bytes_atomic, write_json_atomic
from data_pipeline.manifest import DataError
from data_pipeline.reader import LatentReader
from models.family import count_macs, count_parameters
from scaling.config.sections import StudentRecipe
from scaling.evaluation.score import METRIC, Real, score
from scaling.run.devices import pick_device
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunFile, load_run
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import generate, to_npz, untrained
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.loop import train
from scaling.training.sharding.world import World, joined
from scaling.training.start import Origin, averaged_weights
from scaling.weights.teacher import planned_weights
from scaling.weights.trained import load_network
from scaling.work.stopping import StopRequest


class Timings:
    """Seconds of each stage over all launches of the run, kept in timings.json."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"threads": threads}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block, also when it is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._content[name] = round(self._content.get(name, 0.0) + time.monotonic() - start, 3)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self._content["peak_memory_bytes"] = max(peak, self._content.get("peak_memory_bytes", 0))
            write_json_atomic(self._path, self._content)


def run(home: Path, stop: StopRequest) -> None:
    """All stages of the run in `home` that are not done yet; on several ranks, the first one's alone after training."""
    config = load_run(home)
    if (home / "scores.json").exists():
        return None
    stop.within(config.launch.stop_seconds)
    torch.set_num_threads(config.launch.threads)
    timings = Timings(home / "timings.json", config.launch.threads)
    with joined(pick_device(config.launch)) as world:
        if not world.leads:
            return _train(config, home, world, stop)
        with timings.stage("train"):
            _train(config, home, world, stop)
    final = checkpoint.load(checkpoint.path_of(home / "checkpoints", config.spec.recipe.steps))
    with timings.stage("sample"):
        _sample(config, home, final, world.device, stop)
    with timings.stage("evaluate"):
        _evaluate(config, home, world.device)
    return None


def _train(config: RunFile, home: Path, world: World, stop: StopRequest) -> None:
    reader = LatentReader(config.shards)
    if reader.manifest.content_sha256 != config.spec.data.content_sha256:
        raise DataError(f"{config.shards}: holds other data than the run was planned with: launch the study again")
    train(config.spec, home, reader, _origin(config), config.launch, world, stop)


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
        found = checkpoint.load(checkpoint.path_of(home / "checkpoints", spec.recipe.steps))
        checkpoint.require(found, spec.identity())
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Or delete {home / 'scores.json'}, and the study launched again trains the teacher to its end"
        ) from error
    return Origin(spec.network_config(), averaged_weights(found, profile))


def _sample(config: RunFile, home: Path, final: Checkpoint, device: torch.device, stop: StopRequest) -> None:
    (home / "samples").mkdir(exist_ok=True)
    network = load_network(final, config.spec, device)
    for steps in sampler_steps(config.spec):
        path = home / "samples" / f"steps-{steps}.npz"
        if not path.exists():
            samples = generate(config.spec, network, steps, config.spec.evaluation.samples, device, stop)
            write_bytes_atomic(path, to_npz(*samples))


def _evaluate(config: RunFile, home: Path, device: torch.device) -> None:
    spec, real = config.spec, Real.load(config.reference)
    scores = []
    for steps, nfe in sampler_steps(spec).items():
        images = _samples(home / "samples" / f"steps-{steps}.npz")
        seed = derive_seed(spec.identity(), "resample", steps)
        scores.append({"steps": steps, "nfe": nfe, **score(images, real, spec.evaluation.resamples, seed)})
    blank = None
    if spec.method == "teacher":
        images = untrained(spec, spec.sampling.teacher_steps, real.samples, device)
        blank = score(images, real, 0, 0)["fd"]
    network = spec.network_config()
    result = {
        "study": config.study,
        "run": spec.name(),
        "method": spec.method,
        "size": spec.size,
        "seed": spec.seed,
        "parameters": count_parameters(network),
        "macs": count_macs(network),
        "metric": METRIC,
        "n": real.samples,
        "floor": real.floor,
        "untrained": blank,
        "scores": scores,
    }
    write_json_atomic(home / "scores.json", result)


def _samples(path: Path) -> np.ndarray:
    try:
        return load_arrays(path, "images")[0]
    except DataError as error:
        raise DataError(f"{error}: delete it and launch again") from error
