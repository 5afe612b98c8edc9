"""The last stages of a run: its samples are drawn, and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import torch

from data_pipeline.manifest import DataError
from models.family import count_macs, count_parameters
from scaling.config.metrics import TRUTH, Metric, SpaceName
from scaling.evaluation.extract import Extracted, extract
from scaling.evaluation.judge import Settings, judge, of_sets
from scaling.evaluation.real import Real
from scaling.evaluation.spaces.open import open_space
from scaling.evaluation.spaces.space import Space
from scaling.plan.costs import cost
from scaling.run.home import RunHome, sound, write_model
from scaling.run.randomness import derive_seed
from scaling.run.samples import maker, open_samples, verify_samples
from scaling.run.schemas import MetricScores, RunScores, StepScore
from scaling.run.spec import RunFile, RunSpec
from scaling.sampling.draw import Draw, draw_of
from scaling.sampling.evaluations import sampler_steps, samples_of, sets_of
from scaling.sampling.generate import draw_images, labels_of, zero_network
from scaling.sampling.store import File, Request, to_run_npz
from scaling.training.sharding.world import World
from scaling.weights.trained import final_network
from scaling.work.drawn import Drawn
from scaling.work.slopes import write_slopes
from scaling.work.truth import truth_scores

Stop = Callable[[], bool]


def request_of(spec: RunSpec, draw: Draw, number: int) -> Request:
    """The samples of set `number`: seeds of its own, classes in turn."""
    count = samples_of(spec)
    seeds = np.arange(number * count, (number + 1) * count)
    labels = labels_of(seeds, spec.network_config().num_classes)
    return Request(seeds, labels, maker(spec.name(), draw.steps), {"set": number, **asdict(draw)})


def draw_samples(config: RunFile, home: RunHome, world: World, stop: Stop) -> None:
    """Draw the sets of samples that are not there or not sound, on all ranks; rank 0 puts them together. Collective."""
    spec = config.spec
    home.samples.mkdir(exist_ok=True)
    wanted = [(steps, number) for steps in sampler_steps(spec) for number in range(sets_of(spec))]
    missing = world.told([each for each in wanted if not _there(home, *each)] if world.leads else None)
    if not missing:
        return
    network = final_network(home, spec, world.device)
    for steps, number in missing:
        draw = draw_of(spec, steps)
        request = request_of(spec, draw, number)
        target = File(home.sample(steps, number), request, to_run_npz)
        share = np.array_split(target.missing(), world.size)[world.rank]
        world.barrier()  # each has seen the same parts
        seeds, labels = request.seeds[share], request.labels[share]
        drawn = draw_images(spec, network, draw, seeds, labels, world.device, stop, vae=config.vae)
        try:
            for places, images in drawn:
                target.add(share[places], images)
        except BaseException:
            target.save()
            raise
        if world.size > 1:
            target.save()
        world.barrier()
        if world.leads:
            target.finish()
        world.barrier()  # all of them read the whole next


def _there(home: RunHome, steps: int, number: int) -> bool:
    path = home.sample(steps, number)
    return path.exists() and bool(sound(path, partial(verify_samples, path, maker(home.name, steps))))


def evaluate(config: RunFile, home: RunHome, world: World, stop: Stop) -> None:
    """Judge the samples by each metric and write scores.json, the last file of a run. Collective; rank 0 writes."""
    spec = config.spec
    found: dict[str, MetricScores] = {}
    for name in spec.evaluation.spaces:
        if name == TRUTH:
            found |= truth_scores(config, home, world.device) if world.leads else {}
        else:
            found |= _in_space(config, home, name, world, stop)
    if not world.leads:
        return
    if spec.evaluation.slopes and spec.method == "teacher":
        write_slopes(config, home, world.device)
    network, spent = spec.network_config(), cost(spec)
    result = RunScores(
        study=config.study,
        run=spec.name(),
        method=spec.label,
        size=spec.size,
        seed=spec.seed,
        parameters=count_parameters(network),
        macs=count_macs(network),
        images=spent.images,
        training=spent.train_flops / 2,
        decoder=spec.data.latent_encoder().decoder_macs,
        metrics=tuple(found[metric.name] for metric in spec.evaluation.metrics),
    )
    write_model(home.scores, result)


def _in_space(config: RunFile, home: RunHome, name: SpaceName, world: World, stop: Stop) -> dict[str, MetricScores]:
    """The scores by each metric of one space, by the metric's name."""
    spec = config.spec
    space, real = opened(config, name, world.device)
    metrics = [metric for metric in spec.evaluation.metrics if metric.space == name]
    scores: dict[str, list[StepScore]] = {metric.name: [] for metric in metrics}
    for steps, nfe in sampler_steps(spec).items():
        made = [_features(space, home, steps, number, world, stop) for number in range(spec.evaluation.repeats)]
        settings = settings_of(spec, steps, world.device)
        for metric in metrics if world.leads else ():
            judged = [judge(metric, each, real, settings) for each in made]
            facts = of_sets(judged, spec.evaluation.of_sets)
            scores[metric.name].append(StepScore(steps=steps, nfe=nfe, **facts))
    if not world.leads:
        return {}
    blank = _blank(config, space, metrics, real, world.device, stop)
    return {metric.name: _scores(config, metric, real, blank.get(metric.name), scores) for metric in metrics}


def opened(config: RunFile, name: SpaceName, device: torch.device) -> tuple[Space, Real]:
    """A space of features and the real side in it. DataError where they are of two networks."""
    path = config.references[name]
    real = Real.load(path, path.stem)
    space = open_space(name, config.networks, config.spec.evaluation.resize, device)
    if space.about.sha256 != real.about.sha256:
        raise DataError(f"{path}: was made with another network: launch the study again")
    return space, real


def _features(space: Space, home: RunHome, steps: int, number: int, world: World, stop: Stop) -> Extracted:
    images, _ = open_samples(home.sample(steps, number), maker(home.name, steps))
    return extract(space, images, stop, world)


def settings_of(spec: RunSpec, steps: int, device: torch.device) -> Settings:
    """How values are found, for samples drawn in so many steps."""
    seed = derive_seed(spec.identity(), "resample", steps)
    return Settings(spec.evaluation.neighbours, spec.evaluation.resamples, seed, str(device))


def _blank(
    config: RunFile, space: Space, metrics: list[Metric], real: Real, device: torch.device, stop: Stop
) -> dict[str, float]:
    """What a teacher's network scores before training, by the distances."""
    spec = config.spec
    if spec.method != "teacher":
        return {}
    draw = draw_of(spec)
    made = extract(
        space, Drawn(spec, zero_network, draw, np.arange(real.samples), device, vae=config.vae, stop=stop), stop
    )
    settings = settings_of(spec, draw.steps, device)
    return {one.name: judge(one, made, real, settings, error=False).value for one in metrics if one.is_distance}


def _scores(
    config: RunFile, metric: Metric, real: Real, untrained: float | None, scores: dict[str, list[StepScore]]
) -> MetricScores:
    evaluation, path = config.spec.evaluation, config.references[metric.space]
    return MetricScores(
        metric=metric.name,
        n=real.samples,
        floor=real.floors[metric.name],
        untrained=untrained,
        features=metric.space,
        network=real.about.network,
        network_sha256=real.about.sha256,
        resize=real.about.resize,
        reference=path.name,
        reference_sha256=real.sha256(),
        reference_n=real.count,
        seeds=f"0-{real.samples * evaluation.repeats - 1}",
        sets=evaluation.repeats,
        of_sets=evaluation.of_sets,
        k=evaluation.neighbours if metric.kind in ("precision", "recall", "density", "coverage") else None,
        scores=tuple(scores[metric.name]),
    )
