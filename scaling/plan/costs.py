"""What one run computes: parameters, multiply-adds, images, training and evaluation.

MACs count a multiply-add once; FLOPs are twice the MACs. Counted are convolutions, linear layers and attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.network import NetworkConfig
from models.shape import count_macs, count_parameters
from scaling.config.methods import PARTS
from scaling.config.recipes import Method, StudentRecipe
from scaling.run.spec import RunSpec
from scaling.sampling.evaluations import sampler_steps, samples_of, sets_of, swept

# FLOP/s that one CPU core of 2022 was seen to give a small U-Net; only ratios of estimates matter.
CORE_FLOPS = 6e10

FORWARD, TANGENT, BACKWARD = 1, 1, 2  # by multiply-adds, in forward passes


@dataclass(frozen=True)
class Counts:
    """Trainable parameters, and the MACs of one forward pass of one sample."""

    parameters: int
    forward_macs: int


@dataclass(frozen=True)
class Cost:
    """What one run computes; FLOPs are twice the MACs.

    step_forwards: forward passes that a training step costs by multiply-adds. images: samples seen in training.
    nfe: network evaluations a sample of each sampler, by its number of steps. sample_macs: of one sample of each
    sampler, decoding included. sampling_flops, decoding_flops: of all samples that are judged.
    """

    parameters: int
    forward_macs: int
    step_forwards: int
    steps: int
    images: int
    train_flops: int
    nfe: dict[int, int]
    sample_macs: dict[int, float]
    sampling_flops: int
    decoding_flops: int

    @property
    def evaluation_flops(self) -> int:
        """Sampling and decoding; the features of the metric are not counted."""
        return self.sampling_flops + self.decoding_flops

    @property
    def flops(self) -> int:
        """Training and evaluation."""
        return self.train_flops + self.evaluation_flops


def count(network: NetworkConfig) -> Counts:
    """Parameters and multiply-adds of one network."""
    return Counts(count_parameters(network), count_macs(network))


def step_forwards(method: Method, *, guided: bool, checkpointing: bool) -> int:
    """Forward passes that one training step costs by multiply-adds: a tangent counts one, a backward pass two.

    The sum over the passes of the method. `checkpointing`: every backward pass computes the values, not the tangents,
    once more.
    """
    backward = BACKWARD + (FORWARD if checkpointing else 0)
    return sum(
        FORWARD * (2 if each.guided and guided else 1) + TANGENT * each.tangent + backward * each.gradient
        for each in PARTS[method].passes
    )


def is_guided(spec: RunSpec) -> bool:
    """Whether the run distils a guided teacher."""
    return isinstance(spec.recipe, StudentRecipe) and spec.recipe.guidance is not None


def cost(spec: RunSpec, *, checkpointing: bool = False) -> Cost:
    """Count one run's work. All passes are charged at the MACs of the run's own network."""
    counts = count(spec.network_config())
    forwards = step_forwards(spec.method, guided=is_guided(spec), checkpointing=checkpointing)
    if isinstance(spec.recipe, StudentRecipe) and spec.recipe.derivative == "central":
        forwards += FORWARD  # two evaluations in the place of one tangent
    images = spec.recipe.steps * spec.recipe.batch
    nfe = sampler_steps(spec)
    judged = samples_of(spec) * sets_of(spec)
    at_strengths = [nfe for nfe in swept(spec).values() for _ in spec.evaluation.spaces]  # a set each
    decoder = spec.data.latent_encoder().decoder_macs
    return Cost(
        parameters=counts.parameters,
        forward_macs=counts.forward_macs,
        step_forwards=forwards,
        steps=spec.recipe.steps,
        images=images,
        train_flops=2 * counts.forward_macs * forwards * images,
        nfe=nfe,
        sample_macs={steps: evaluations * counts.forward_macs + decoder for steps, evaluations in nfe.items()},
        sampling_flops=2 * counts.forward_macs * (sum(nfe.values()) * judged + sum(at_strengths) * samples_of(spec)),
        decoding_flops=round(2 * decoder * (len(nfe) * judged + len(at_strengths) * samples_of(spec))),
    )


def seconds_estimate(spec: RunSpec) -> float:
    """Core-seconds of a run, for ordering jobs and for a bar; not a promise."""
    return cost(spec).flops / CORE_FLOPS
