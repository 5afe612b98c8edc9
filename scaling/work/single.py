"""The commands that work on single files: sample, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data_pipeline.files import make_parents, write_bytes_atomic
from data_pipeline.images import load_samples
from models.trigflow import TrigFlowNet
from scaling.config.validation import ConfigError, validate
from scaling.evaluation.score import METRIC, Real, score
from scaling.run.samples import Samples, maker
from scaling.run.spec import RunSpec
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import generate
from scaling.sampling.pictures import to_png
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.files import MANIFEST, POINTER, CheckpointError
from scaling.weights.folder import CONFIG, ModelError, load_model
from scaling.weights.trained import load_network

COLUMNS = 10


def sample_to(path: Path, to: Path, count: int, steps: int | None) -> dict[str, Any]:
    """Draw `count` samples of what `path` holds: into one PNG, ten a row, or an .npz as runs leave; what was done.

    Raises ConfigError, CheckpointError or ModelError, before any work where the destination cannot be.
    """
    if to.suffix not in WRITERS:
        raise ConfigError(f"--to {to}: name it FILE.png for one picture, or FILE.npz for images and labels")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec, network = _network(path, device)
    chosen = steps or next(iter(sampler_steps(spec)))
    if spec.method != "teacher" and chosen > 2:
        raise ConfigError(f"--steps {chosen}: a consistency model is sampled in 1 or 2 steps")
    if spec.network_config().guidance and chosen not in spec.sampling.student_guidance:
        raise ConfigError(
            f"--steps {chosen}: the run's sampling.student_guidance has no strength for it, only for steps "
            f"{', '.join(map(str, spec.sampling.student_guidance))}"
        )
    made = Samples(*generate(spec, network, chosen, count, device), maker(spec.name(), chosen))
    make_parents(to)
    write_bytes_atomic(to, WRITERS[to.suffix](made))
    return {"file": str(to), "run": spec.name(), "samples": count, "steps": chosen}


def _network(path: Path, device: torch.device) -> tuple[RunSpec, TrigFlowNet]:
    """The network in whatever holds weights, and the run that says how it is sampled.

    path: the home of a run or its checkpoints/, whose newest checkpoint is taken; its file `newest`, or one checkpoint;
    or a folder of `trigscale model ema`.
    """
    if (path / CONFIG).is_file():
        saved = load_model(path)
        if saved.description.run is None:
            raise ModelError(
                f"{path}: imported weights do not say how they are sampled: run a study with teacher.weights={path} "
                "teacher.steps=0, and sample its teacher"
            )
        return saved.description.run, saved.network().to(device)
    if path.name == POINTER and path.is_file():
        path = path.with_name(path.read_text(encoding="utf-8").strip())
    for folder in (path / "checkpoints", path):
        if found := checkpoint.steps_in(folder):
            path = checkpoint.path_of(folder, found[-1])
            break
    if not (path / MANIFEST).exists():
        raise CheckpointError(
            f"{path}: holds no weights: name the folder of a run that has trained, one of its checkpoints, or a folder "
            "made by `trigscale model ema`"
        )
    loaded = checkpoint.load(path)
    if "spec" not in loaded.metadata:
        raise CheckpointError(f"{path}: does not say of which run it is: not written by trigscale")
    spec = validate(RunSpec, loaded.metadata["spec"], f"{path}: spec")
    checkpoint.require(loaded, spec.identity())
    return spec, load_network(loaded, spec, device)


def _picture(samples: Samples) -> bytes:
    return to_png(samples.images, COLUMNS)


WRITERS = {".png": _picture, ".npz": Samples.to_npz}


def evaluate_npz(path: Path, reference: Path) -> dict[str, Any]:
    """The distance of the images of an .npz to the real ones, with its N and floor; DataError names the file."""
    real = Real.load(reference)
    result = score(load_samples(path), real, 0, 0)
    return {"metric": METRIC, "fd": result["fd"], "n": real.samples, "floor": real.floor}
