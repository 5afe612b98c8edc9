"""The command `evaluate`: any set of images against any reference, by any metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.manifest import DataError
from scaling.config.metrics import METRICS, Metric, SpaceName, get_metric
from scaling.config.sections import LEAST_SAMPLES, NetworkFiles
from scaling.config.validation import ConfigError
from scaling.evaluation.extract import Extracted, extract, moments_of
from scaling.evaluation.frechet import Reference
from scaling.evaluation.images.sets import open_images
from scaling.evaluation.judge import Settings, judge
from scaling.evaluation.neighbours import perfect_coverage
from scaling.evaluation.real import Real, Some, real_floors
from scaling.evaluation.references import is_ours, read_reference
from scaling.evaluation.spaces.open import open_space
from scaling.evaluation.spaces.resize import Mode
from scaling.evaluation.spaces.space import Images, Space
from scaling.training.sharding.world import World
from scaling.work.drawn import Drawn
from scaling.work.sampling import Choices, drawn_by, hold, holds_weights, parse_seeds
from scaling.work.search import Search, evaluator, variables_of

LEAST = 10  # images of a set


@dataclass(frozen=True)
class Asked:
    """What a user asks: the real images, the metrics, held-out images for floors, and what each space needs."""

    reference: Path
    metrics: tuple[Metric, ...]
    held_out: Path | None = None
    files: NetworkFiles = field(default_factory=NetworkFiles)
    resize: Mode = "clean"
    settings: Settings = field(default_factory=Settings)


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """The metrics of "fid,kid,precision". ConfigError names an unknown one."""
    try:
        return tuple(get_metric(name) for name in dict.fromkeys(name.strip().lower() for name in text.split(",")))
    except ValueError as error:
        raise ConfigError(f"--metrics: {error}") from None


def default_metrics(reference: Path) -> tuple[Metric, ...]:
    """The distance in the space that a file of ours was made for; FID for any other reference."""
    if is_ours(reference):
        space = Real.load(reference).about.space
        return (next(one for one in METRICS.values() if one.space == space and one.is_distance),)
    return (METRICS["fid"],)


def images_at(path: Path, seeds: str, choices: Choices, device: torch.device) -> Images:
    """The images at a path, or those that the weights there draw."""
    if holds_weights(path):
        held = hold(path, device)
        draw = drawn_by(held.spec, choices)
        return Drawn(held.spec, held.network, draw, parse_seeds(seeds), device, vae=choices.vae)
    return open_images(path)


def search_run(
    home: Path,
    asked: Asked,
    names: str,
    seeds: str,
    choices: Choices,
    budget: int,
    to: Path | None,
    device: torch.device,
) -> dict[str, Any]:
    """The best setting of a run by the first metric, which must be a distance. ConfigError, DataError, SpaceError."""
    metric = asked.metrics[0]
    if not metric.is_distance:
        raise ConfigError(f"--metrics {metric.name}: a search compares distances: name fid or an fd-... first")
    chosen = parse_seeds(seeds)
    spec = hold(home, device).spec
    variables = variables_of(names, spec, home)
    space = open_space(metric.space, asked.files, asked.resize, device)
    real = real_of(space, [metric], len(chosen), asked)
    evaluate = evaluator(home, space, real, chosen, choices, device)
    what = {"run": spec.name(), "metric": metric.name, "reference": real.sha256(), "network": space.about.sha256}
    what |= {
        "seeds": seeds,
        "steps": choices.steps,
        "guidance": choices.guidance,
        "search": [one.name for one in variables],
    }
    search = Search(to or home / "search", what, evaluate, budget)
    middle = {one.name: one.at(0.5) for one in variables}
    return {**what, **search.run(variables, middle).facts()}


def evaluate_images(path: Path, images: Images, asked: Asked, world: World) -> dict[str, Any] | None:
    """Each metric of the images that are or come from `path`, with all that it depends on.

    The ranks of a world share the images, and rank 0 judges: the others get None (collective). DataError or SpaceError
    names the file.
    """
    if images.count < LEAST:
        raise DataError(f"{path}: holds {images.count} images: a set of {LEAST} at least can be judged")
    results = []
    spaces: list[SpaceName] = [metric.space for metric in asked.metrics]
    for name in dict.fromkeys(spaces):
        space = open_space(name, asked.files, asked.resize, world.device)
        results += naming(path, lambda space=space: _in_space(images, space, asked, world))
    if not world.leads:
        return None
    order = [metric.name for metric in asked.metrics]
    results.sort(key=lambda result: order.index(result["metric"]))
    return {"images": str(path), "n": images.count, "reference": str(asked.reference), "metrics": results}


def naming(path: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns; a DataError that does not name the images is given their path."""
    try:
        return work()
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def _in_space(images: Images, space: Space, asked: Asked, world: World) -> list[dict[str, Any]]:
    metrics = [metric for metric in asked.metrics if metric.space == space.about.space]
    made = extract(space, images, world=world)
    real = real_of(space, metrics, images.count, asked, world)
    if real.samples and real.samples != images.count and not asked.held_out:
        own = f", or a reference at N = {images.count:,}, which a study with evaluation.samples={images.count} writes"
        raise DataError(
            f"{images.count:,} images, but the floor was measured with {real.samples:,}, and distances compare at one "
            f"N only: give {real.samples:,} images{own if images.count >= LEAST_SAMPLES else ''}"
        )
    if not world.leads:
        return []
    return [_result(metric, made, real, space, images.count, asked) for metric in metrics]


def real_of(space: Space, metrics: Sequence[Metric], count: int, asked: Asked, world: World | None = None) -> Real:
    """The side of the real images: read from a file of statistics, or made of images; with floors where it can be.

    The ranks of a world share the images (collective).
    """
    about = space.about
    real = read_reference(asked.reference, about.space, about.size)
    if real is not None:
        if real.about.sha256 and (real.about.sha256, real.about.resize) != (about.sha256, about.resize):
            raise DataError(
                f"{asked.reference}: was made with another network or resize ({real.about.network}, "
                f"{real.about.resize}), not with {about.network}, {about.resize}"
            )
    else:
        images = open_images(asked.reference)
        moments = moments_of(space, images, world)
        places = np.linspace(0, images.count - 1, min(count, images.count)).round().astype(int)
        needs = any(metric.needs_real_features for metric in metrics)
        single = extract(space, Some(images, places), world=world).features if needs else None
        real = Real(about, Reference(*moments.statistics()), moments.count, 0, {}, single)
    return real if asked.held_out is None else _with_floors(real, space, metrics, count, asked, world)


def _with_floors(
    real: Real, space: Space, metrics: Sequence[Metric], count: int, asked: Asked, world: World | None
) -> Real:
    assert asked.held_out is not None
    images = open_images(asked.held_out)
    if images.count < count:
        raise DataError(f"{asked.held_out}: holds {images.count:,} images, {count:,} are needed for a floor at that N")
    places = np.linspace(0, images.count - 1, count).round().astype(int)
    made = extract(space, Some(images, places), world=world)
    return real_floors(replace(real, samples=count), metrics, made, asked.settings)


def _result(metric: Metric, made: Extracted, real: Real, space: Space, count: int, asked: Asked) -> dict[str, Any]:
    found = judge(metric, made, real, asked.settings).facts()
    infinite = found.get("infinite")
    result: dict[str, Any] = {
        "metric": metric.name,
        "label": metric.label,
        **{key: value for key, value in found.items() if value is not None},
        "n": count,
        "floor": real.floors.get(metric.name),
        "features": metric.space,
        "network": space.about.network,
        "network_sha256": space.about.sha256,
        "resize": space.about.resize,
        "reference_n": real.count or None,
        "reference_sha256": real.sha256(),
        "reference_network": real.about.network,
    }
    if infinite is not None:
        result["infinite"] = infinite.model_dump()
    if metric.kind in ("precision", "recall", "density", "coverage"):
        result["k"] = asked.settings.k
    if metric.kind == "coverage" and real.features is not None:
        result["perfect"] = perfect_coverage(len(real.features), count, asked.settings.k)
    if metric.kind == "density":
        result["perfect"] = 1.0
    return result


def describe(result: dict[str, Any]) -> str:
    """One metric in words."""
    text = f"{result['label']} {result['value']:.4g}"
    if "interval" in result:
        low, high = result["interval"]
        text += f" [{low:.4g}, {high:.4g}]"
    notes = [f"N = {result['n']:,}"]
    if result["floor"] is not None:
        notes.append(f"floor {result['floor']:.3g}")
    if "perfect" in result:
        notes.append(f"a perfect model {result['perfect']:.3g}")
    if "infinite" in result:
        infinite = result["infinite"]
        notes.append(f"at infinite N {infinite['value']:.4g} [{infinite['low']:.4g}, {infinite['high']:.4g}]")
    if result.get("resize"):
        notes.append(f"resize {result['resize']}")
    return f"{text} ({', '.join(notes)})"


def make_statistics(path: Path, space_name: SpaceName, files: NetworkFiles, resize: Mode, device: torch.device) -> Real:
    """Reference statistics of all images at a path, for later distances: mean and covariance, no single features."""
    space = open_space(space_name, files, resize, device)
    images = open_images(path)
    moments = naming(path, lambda: moments_of(space, images))
    return Real(space.about, Reference(*moments.statistics()), moments.count, 0, {})
