"""The metric `truth`: a run of the known mixture against what is true."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data_pipeline.arrays import load_arrays
from data_pipeline.files import write_bytes_atomic
from data_pipeline.manifest import DataError
from models.trigflow import SIGMA_DATA, TrigFlowNet, denoise
from scaling.config.methods import PARTS
from scaling.config.metrics import TRUTH
from scaling.config.recipes import StudentRecipe
from scaling.evaluation.judge import Judged
from scaling.evaluation.mixture import MIXTURE_SHAPE
from scaling.evaluation.truth import FLOOR, SECOND_T, SEED, TIMES, Truth, relative_error
from scaling.methods.ends import segment_end
from scaling.methods.guidance import NO_LABEL, Network
from scaling.run.home import RunHome
from scaling.run.schemas import MetricScores, StepScore
from scaling.run.spec import RunFile, RunSpec
from scaling.sampling.draw import draw_of
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import draw_latents, zero_network
from scaling.sampling.samplers import sample_walk, teacher_flow
from scaling.weights.trained import final_network

HEUN_STEPS = 16  # of the teacher's own flow from each time


def truth_scores(config: RunFile, home: RunHome, device: torch.device) -> dict[str, MetricScores]:
    """The error of the run's samples for each number of steps, and its errors by time in truth.npz of its home."""
    spec, path = config.spec, config.references[TRUTH]
    truth = Truth.load(path)
    net = final_network(home, spec, device)
    write_bytes_atomic(home.truth, _by_time(config, net, truth, device))
    scores = []
    for steps, nfe in sampler_steps(spec).items():
        value, error = _sampled(spec, net, steps, truth, device)
        scores.append(StepScore(steps=steps, nfe=nfe, **Judged(value, error, "influence").facts()))
    untrained = _sampled(spec, zero_network, scores[0].steps, truth, device)[0] if spec.method == "teacher" else None
    count = len(truth.one_step)
    return {
        TRUTH: MetricScores(
            metric=TRUTH,
            n=count,
            floor=FLOOR,
            untrained=untrained,
            features=TRUTH,
            reference=path.name,
            seeds=f"0-{count - 1}",
            scores=tuple(scores),
        )
    }


def _sampled(spec: RunSpec, net: Network, steps: int, truth: Truth, device: torch.device) -> tuple[float, float]:
    """The error of samples to those that the exact flow makes of the same noise, with its standard error."""
    draw = replace(draw_of(spec, steps), seed=SEED, intermediate_t=SECOND_T)
    true = truth.two_steps if (draw.sampler, steps) == ("student", 2) else truth.one_step
    seeds = np.arange(len(true))
    labels = np.full(len(true), NO_LABEL)
    found = draw_latents(spec.network_config(), net, draw, seeds, labels, device)
    return relative_error(found.cpu().flatten(1), true)


@torch.no_grad()
def _by_time(config: RunFile, net: TrigFlowNet, truth: Truth, device: torch.device) -> bytes:
    """An .npz: errors [T] of the network at the times, NaN where a method does not know the function.

    velocity: a teacher's F to the ideal velocity. to_truth: where the network leads to where the exact flow does.
    to_teacher: to where its own teacher's does. leads [T, B, D]: of a teacher, for its students.
    """
    spec = config.spec
    points = truth.points.float().reshape(len(TIMES), -1, *MIXTURE_SHAPE).to(device)
    leads = torch.stack([_led(spec, net, x, t) for x, t in zip(points, TIMES, strict=True)]).flatten(2).cpu()
    nothing = np.full(len(TIMES), math.nan)
    found = {"velocity": nothing, "to_teacher": nothing, "to_truth": _errors(leads, truth.leads)}
    if spec.method == "teacher":
        velocities = [SIGMA_DATA * net(x / SIGMA_DATA, *_told(x, t)) for x, t in zip(points, TIMES, strict=True)]
        found["velocity"] = _errors(torch.stack(velocities).flatten(2).cpu(), truth.velocities)
    elif config.teacher_home is not None:
        found["to_teacher"] = _errors(leads, _leads_of(RunHome(config.teacher_home)))
    buffer = io.BytesIO()
    np.savez(buffer, times=np.array(TIMES), leads=leads.numpy(), **found)
    return buffer.getvalue()


def _led(spec: RunSpec, net: TrigFlowNet, x: Tensor, t: float) -> Tensor:
    """Where a network leads points x [B, C, H, W] of time t, in as many steps as its segments have ends before t."""
    recipe, (times, labels) = spec.recipe, _told(x, t)
    if not isinstance(recipe, StudentRecipe):
        return teacher_flow(lambda x, t: net(x, t, labels), x, t, HEUN_STEPS)
    if PARTS[spec.method].one_step and t != TIMES[-1]:
        return torch.full_like(x, math.nan)  # it was trained at t_max alone
    if recipe.flow_map:
        return denoise(x, net(x / SIGMA_DATA, times, labels, to=0 * times), times)
    ends = [torch.tensor(t, dtype=torch.float64)]
    while ends[-1] > 0:
        ends.append(segment_end(ends[-1], recipe.segments))
    return sample_walk(lambda x, t, to: net(x, t, labels), x, torch.stack(ends))


def _told(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The time and no label, for each of the points."""
    return torch.full((len(x),), t, device=x.device), torch.full((len(x),), NO_LABEL, device=x.device)


def _errors(found: Tensor, true: Tensor) -> np.ndarray:
    """Relative errors [T] of points [T, B, D]."""
    return np.array([relative_error(a, b)[0] for a, b in zip(found, true, strict=True)])


def _leads_of(teacher: RunHome) -> Tensor:
    try:
        return torch.from_numpy(load_arrays(teacher.truth, "leads")[0]).double()
    except DataError as error:
        raise DataError(f"{error}. Or delete {teacher.scores}, and the study launched again judges it anew") from error
