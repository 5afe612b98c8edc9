"""The command `sample`: whatever holds weights is sampled, by seeds and classes, to a folder or a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.files import sha256_file
from models.release import CONFIG
from models.trigflow import TrigFlowNet
from scaling.config.validation import ConfigError, validate
from scaling.run.spec import RunSpec
from scaling.sampling.draw import Draw, Sampler, changed, draw_of
from scaling.sampling.generate import draw_images, labels_of
from scaling.sampling.store import Request, open_target, require_ending
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.files import MANIFEST, POINTER, CheckpointError
from scaling.training.sharding.world import World
from scaling.weights.folder import load_model, sampled_as
from scaling.weights.trained import load_network


@dataclass(frozen=True)
class Choices:
    """What a user chose; None leaves a choice to the run's own sampling section."""

    steps: int | None = None
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    sampler: Sampler | None = None
    autoguide: Path | None = None
    intermediate_t: float | None = None
    noise_seed: int | None = None
    batch: int | None = None
    classes: tuple[int, ...] | None = None
    vae: Path | None = None


@dataclass(frozen=True)
class Held:
    """A network, the run that says how it is sampled, and the identity of its weights."""

    spec: RunSpec
    network: TrigFlowNet
    weights: str


def sample_to(path: Path, to: Path, seeds: np.ndarray, choices: Choices, world: World) -> dict[str, Any]:
    """Draw the samples of these seeds that are not there yet, on all ranks; what was done. Collective.

    Image i depends on the weights, the choices and seed i alone. Raises ConfigError, CheckpointError, ModelError or
    SampleError, before any work where the destination cannot be.
    """
    require_ending(to)
    held = hold(path, world.device)
    guide = hold(choices.autoguide, world.device) if choices.autoguide else None
    if guide is not None and guide.spec.network_config().latent_channels != held.spec.network_config().latent_channels:
        raise ConfigError(f"--autoguide {choices.autoguide}: is a network of other latents: take one of the same data")
    draw = drawn_by(held.spec, choices)
    labels = labels_of(seeds, _classes(held.spec, choices), choices.classes)
    settings = {**asdict(draw), "weights": held.weights, "classes": choices.classes or "all"}
    settings |= {"autoguide": guide.weights} if guide else {}
    request = Request(seeds, labels, f"{held.spec.name()}, {draw.steps} steps", settings)
    target = open_target(to, request)
    share = np.array_split(target.missing(), world.size)[world.rank]
    world.barrier()  # each has seen the same state
    network = guide.network if guide else None
    made = draw_images(
        held.spec, held.network, draw, seeds[share], labels[share], world.device, guide=network, vae=choices.vae
    )
    try:
        for places, images in made:
            target.add(share[places], images)
    finally:
        target.save()
    world.barrier()
    if world.leads:
        target.finish()
    facts = {"file": str(to), "run": held.spec.name(), "samples": len(seeds), "made": len(share)}
    return {**facts, "steps": draw.steps, "nfe": draw.nfe, "guidance": draw.guidance, "weights": held.weights}


def drawn_by(spec: RunSpec, choices: Choices) -> Draw:
    """How samples are drawn. ConfigError names the option."""
    return changed(
        _plain_draw(spec, choices),
        spec,
        guidance=choices.guidance,
        interval=choices.interval,
        sampler=choices.sampler,
        autoguided=choices.autoguide is not None,
        intermediate_t=choices.intermediate_t,
        seed=choices.noise_seed,
        batch=choices.batch,
    )


def _plain_draw(spec: RunSpec, choices: Choices) -> Draw:
    """As the run says; where it has no strength of guidance for these steps, the user must name one."""
    strengths = spec.sampling.student_guidance
    if choices.guidance is not None and choices.steps is not None and spec.network_config().guidance:
        spec = spec.model_copy(
            update={
                "sampling": spec.sampling.model_copy(update={"student_guidance": {choices.steps: 1.0, **strengths}})
            }
        )
    return draw_of(spec, choices.steps)


def _classes(spec: RunSpec, choices: Choices) -> int:
    classes = spec.network_config().num_classes
    for label in choices.classes or ():
        if not 0 <= label < classes:
            known = f"0 to {classes - 1}" if classes else "none: it was trained without classes"
            raise ConfigError(f"--classes {label}: the network knows {known}")
    return classes


def parse_seeds(text: str) -> np.ndarray:
    """int64 [N] of "0-49999", "7" or "0-9,100-109", each once, in order. ConfigError."""
    seeds: list[np.ndarray] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first) > 15 or len(last) > 15:
            raise ConfigError(f"--seeds {text}: write numbers and ranges of them, such as 0-49999 or 0-9,20-29")
        low, high = int(first), int(last or first)
        if high < low or high - low >= 10**8:
            raise ConfigError(f"--seeds {text}: {part} is no range of at most 100 million seeds that rises")
        seeds.append(np.arange(low, high + 1))
    every = np.concatenate(seeds)
    if len(np.unique(every)) != len(every):
        raise ConfigError(f"--seeds {text}: names a seed twice: one seed is one image")
    return every


def parse_classes(text: str) -> tuple[int, ...] | None:
    """The classes of "207,88"; None for "all". ConfigError."""
    if text == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--classes {text}: write all, or numbers of classes such as 207,88")
    return tuple(int(part) for part in parts)


def hold(path: Path, device: torch.device) -> Held:
    """The network in whatever holds weights, and the run that says how it is sampled.

    path: the home of a run or its checkpoints/, whose newest checkpoint is taken; its file `newest`, or one checkpoint;
    or a folder of weights: of `trigscale release`, `model ema` or `model import-edm2`.
    """
    if (path / CONFIG).is_file():
        saved = load_model(path)
        return Held(sampled_as(saved), saved.network(device), saved.sha256)
    found = find_checkpoint(path)
    loaded = checkpoint.load(found)
    if "spec" not in loaded.metadata:
        raise CheckpointError(f"{found}: does not say of which run it is: not written by trigscale")
    spec = validate(RunSpec, loaded.metadata["spec"], f"{found}: spec")
    checkpoint.require(loaded, spec.identity())
    return Held(spec, load_network(loaded, spec, device), sha256_file(found / MANIFEST))


def holds_weights(path: Path) -> bool:
    """Whether a path is one that `hold` takes, and no set of images."""
    if (path / CONFIG).is_file() or path.name == POINTER or (path / MANIFEST).is_file():
        return True
    return any(checkpoint.steps_in(folder) for folder in (path / "checkpoints", path) if folder.is_dir())


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means. CheckpointError where there is none."""
    if path.name == POINTER and path.is_file():
        path = path.with_name(path.read_text(encoding="utf-8").strip())
    for folder in (path / "checkpoints", path):
        if found := checkpoint.steps_in(folder):
            path = checkpoint.path_of(folder, found[-1])
            break
    if not (path / MANIFEST).exists():
        raise CheckpointError(
            f"{path}: holds no weights: name the folder of a run that has trained, one of its checkpoints, or a folder "
            "made by `trigscale release` or `trigscale model ema`"
        )
    return path
