"""What the page asks for: the networks side by side, drawn from the same noise, and how long each took."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from models.family import count_macs, count_parameters
from models.release import CONFIG
from scaling.analysis.table import method_label
from scaling.config.recipes import StudentRecipe
from scaling.config.validation import ConfigError
from scaling.run.randomness import derive_seed
from scaling.sampling.draw import Draw
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import draw_images, labels_of
from scaling.sampling.pictures import to_png
from scaling.weights.folder import load_model
from scaling.work.sampling import Choices, Held, drawn_by, hold

MOST_IMAGES, MOST_SEED, MOST_STEPS = 32, 2**31, 64
DRAWN = "demo"  # the key of its noise: the same for every network


@dataclass(frozen=True)
class Shown:
    """One network of the page."""

    path: Path
    held: Held

    @property
    def student(self) -> bool:
        """Whether it is a consistency model."""
        return isinstance(self.held.spec.recipe, StudentRecipe)

    def facts(self) -> dict[str, Any]:
        """What the page says of it."""
        spec, config = self.held.spec, self.held.spec.network_config()
        guidance = spec.recipe.guidance if isinstance(spec.recipe, StudentRecipe) else None
        return {
            "name": f"{method_label(spec.method)} {spec.size}",
            "path": str(self.path),
            "student": self.student,
            "steps": [*sampler_steps(spec)],
            "guidance": guidance,
            "parameters": count_parameters(config),
            "macs": count_macs(config),
        }


class Gallery:
    """Networks that see the same latents, drawn one after the other on one device."""

    def __init__(self, paths: Sequence[Path], device: torch.device, vae: Path | None = None) -> None:
        """Raises what `scaling.work.sampling.hold` raises, and ConfigError where two are of different data."""
        self.device, self.vae, self.lock = device, vae, Lock()
        self.shown = [Shown(path, hold(path, device)) for path in paths]
        first, *others = self.shown
        for other in others:
            if difference := _difference(first.held, other.held):
                raise ConfigError(f"{other.path}: {difference} than {first.path} has: show those of one study")

    def facts(self) -> dict[str, Any]:
        """What the page is made of."""
        return {
            "networks": [one.facts() for one in self.shown],
            "classes": _class_names(self.shown),
            "device": str(self.device),
            "most": {"images": MOST_IMAGES, "seed": MOST_SEED, "steps": MOST_STEPS},
        }

    def draw(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """One row a network: a PNG of the images side by side, steps, NFE and seconds.

        asked: seed, count, label (-1: classes in turn), steps (1 or 2, of students) and guidance, null for the run's
        own. ConfigError names what is not one of these.
        """
        wanted = _checked(asked, len(_class_names(self.shown)))
        seeds = wanted["seed"] + np.arange(wanted["count"])
        classes = self.shown[0].held.spec.network_config().num_classes
        labels = labels_of(seeds, classes, None if wanted["label"] < 0 else (wanted["label"],))
        with self.lock:
            return {"rows": [self._row(one, wanted, seeds, labels) for one in self.shown]}

    def _row(self, one: Shown, wanted: dict[str, Any], seeds: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        held = one.held
        steps = wanted["steps"] if one.student else None
        try:
            draw = drawn_by(held.spec, Choices(steps=steps, guidance=wanted["guidance"], batch=len(seeds)))
        except ConfigError as error:  # what this network does not know is said in its row
            return {"refused": str(error).replace("--", "")}
        images, seconds = self._images(held, replace(draw, seed=derive_seed(DRAWN)), seeds, labels)
        picture = base64.b64encode(to_png(images, len(images))).decode()
        return {
            "png": f"data:image/png;base64,{picture}",
            "steps": draw.steps,
            "nfe": draw.nfe,
            "guidance": draw.guidance,
            "seconds": seconds,
            "labels": labels.tolist(),
        }

    def _images(self, held: Held, draw: Draw, seeds: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        drawn = draw_images(held.spec, held.network, draw, seeds, labels, self.device, vae=self.vae)
        images = np.concatenate([part for _, part in drawn])
        return images, time.perf_counter() - began


def _difference(a: Held, b: Held) -> str | None:
    """In what two networks do not see the same latents."""
    one, other = a.spec.network_config(), b.spec.network_config()
    for key in ("resolution", "latent_channels", "num_classes"):
        if getattr(one, key) != getattr(other, key):
            return f"has another {key} ({getattr(other, key)})"
    if a.spec.data.encoder != b.spec.data.encoder:
        return f"has another encoder ({b.spec.data.encoder})"
    return None


def _class_names(shown: Sequence[Shown]) -> list[str]:
    """The names of the classes where a folder tells them, else their numbers."""
    count = shown[0].held.spec.network_config().num_classes
    for one in shown:
        if (one.path / CONFIG).is_file():
            data = load_model(one.path).description.data
            if data is not None and data.class_names:
                return [f"{number} {name}" for number, name in enumerate(data.class_names)]
    return [str(number) for number in range(count)]


def _checked(asked: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The request with every number in its bounds. ConfigError."""
    bounds = {"seed": (0, MOST_SEED), "count": (1, MOST_IMAGES), "label": (-1, classes - 1), "steps": (1, 2)}
    if asked.keys() != {*bounds, "guidance"}:
        raise ConfigError(f"the request has keys {sorted(asked)!r:.200}, not {', '.join(bounds)} and guidance")
    for key, (low, high) in bounds.items():
        if type(asked[key]) is not int or not low <= asked[key] <= high:
            raise ConfigError(f"{key} is {asked[key]!r:.40}: give a whole number from {low} to {high}")
    guidance = asked["guidance"]
    if guidance is not None and (type(guidance) not in (int, float) or not 0 <= guidance <= 100):
        raise ConfigError(f"guidance is {guidance!r:.40}: give a number from 0 to 100, or null")
    return dict(asked)
