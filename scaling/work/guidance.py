"""Of a study with evaluation.guidance: what a run scores at each strength of guidance (sCM, Figure 7)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scaling.config.metrics import TRUTH
from scaling.evaluation.extract import Extracted, extract
from scaling.evaluation.judge import judge
from scaling.evaluation.real import Real
from scaling.evaluation.spaces.space import Space
from scaling.run.home import RunHome, sound, write_model
from scaling.run.schemas import GuidancePoint, GuidanceScores, StepScore
from scaling.run.spec import RunFile
from scaling.sampling.draw import draw_of
from scaling.sampling.evaluations import samples_of, swept
from scaling.training.sharding.world import World
from scaling.weights.trained import final_network
from scaling.work.drawn import Drawn
from scaling.work.judging import Stop, opened, settings_of


def judge_guidance(config: RunFile, home: RunHome, world: World, stop: Stop) -> None:
    """guidance.json of the run's home, a strength after the other; what it holds is not done again. Collective.

    The samples are those of the first set, drawn with another strength, and are not kept.
    """
    wanted = swept(config.spec)
    known = sound(home.guidance, home.read_guidance) if world.leads and wanted else None
    points: list[GuidancePoint] = world.told([*known.points] if known else [])
    done = {(point.steps, point.guidance) for point in points}
    if done >= wanted.keys():
        return
    network = final_network(home, config.spec, world.device)
    spaces = [opened(config, name, world.device) for name in config.spec.evaluation.spaces if name != TRUTH]
    for (steps, strength), nfe in wanted.items():
        if (steps, strength) in done:
            continue
        draw, seeds = replace(draw_of(config.spec, steps), guidance=strength), np.arange(samples_of(config.spec))
        images = Drawn(config.spec, network, draw, seeds, world.device, vae=config.vae, stop=stop)
        metrics: dict[str, StepScore] = {}
        for space, real in spaces:
            made = extract(space, images, stop, world)
            metrics |= _judged(config, made, space, real, nfe, steps, world) if world.leads else {}
        if world.leads:
            points.append(GuidancePoint(guidance=strength, metrics=metrics))
            write_model(home.guidance, GuidanceScores(run=home.name, points=tuple(points)))


def _judged(
    config: RunFile, made: Extracted, space: Space, real: Real, nfe: int, steps: int, world: World
) -> dict[str, StepScore]:
    """The scores by each metric of one space, by the metric's name."""
    settings = settings_of(config.spec, steps, world.device)
    return {
        metric.name: StepScore(steps=steps, nfe=nfe, **judge(metric, made, real, settings).facts())
        for metric in config.spec.evaluation.metrics
        if metric.space == space.about.space
    }
