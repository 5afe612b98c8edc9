"""What a run starts from: random weights, its teacher's, or a network at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.network import NetworkConfig
from models.shape import state_shapes
from models.sharded import LocalRun, local_runs
from models.trigflow import TrigFlowNet
from scaling.config.methods import FAKE, PARTS, NetworkName
from scaling.config.recipes import ConsistencyRecipe
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import profile_name
from scaling.training.origin import Origin, require_shapes

# What a student has beyond its teacher, which is told neither a guidance strength nor where to lead; the gain of each
# starts at zero, so that it starts as the teacher.
GUIDANCE_KEYS, TO_KEYS = (
    tuple(f"unet.{layer}{key}" for key in (".weight", "_gain", "_fourier.freqs", "_fourier.phases"))
    for layer in ("emb_guidance", "emb_to")
)
WEIGHTING = ("logvar_fourier", "logvar_linear")  # w(t) in TrigFlowNet


def averaged_weights(found: Checkpoint, profile: float) -> dict[str, Tensor]:
    """A whole state dict with the parameters of one EMA profile (see `profile_name`) and the buffers of the model."""
    return {**found.part("model/"), **found.part(f"{profile_name(profile)}/")}


@dataclass(frozen=True)
class First:
    """A network before its first step: random weights, over them those of an origin, over them a fresh weighting.

    seed, weighting: of the random weights and of the weighting w(t); weighting None: the origin's, or the random one.
    What a network that is told more has beyond its origin stays random. RuntimeError where the origin does not fit.
    """

    config: NetworkConfig
    seed: int
    origin: Origin | None = None
    weighting: int | None = None

    def whole(self) -> TrigFlowNet:
        """All of it, on the CPU."""
        net = TrigFlowNet(self.config)
        self.fill(net)
        return net

    @torch.no_grad()
    def fill(self, net: TrigFlowNet) -> None:
        """Fill what this rank holds of a network of this shape, one whole tensor at a time beside it.

        The values are those of `whole`, however the network is spread over ranks.
        """
        runs = local_runs(net)
        taken = self._taken()
        if self.origin is not None:
            self.origin.read({name: run for name, run in runs.items() if name in taken})
        if runs.keys() - taken:
            self._draw({name: run for name, run in runs.items() if name not in taken})
        if self.weighting is not None:
            drawn = TrigFlowNet(self.config)
            drawn.reset_weighting(torch.Generator().manual_seed(self.weighting))
            for prefix in WEIGHTING:
                _copy(drawn.get_submodule(prefix), prefix, runs)

    def _taken(self) -> set[str]:
        """The names that the origin gives."""
        if self.origin is None:
            return set()
        shapes, there = state_shapes(self.config), self.origin.shapes()
        added = {name for name in (*GUIDANCE_KEYS, *TO_KEYS) if name not in there}
        require_shapes({name: shape for name, shape in shapes.items() if name not in added}, there)
        return set(there)

    def _draw(self, runs: Mapping[str, LocalRun]) -> None:
        """The random weights. Memory of the whole is asked for, but one tensor of it at a time is touched."""
        drawn, generator = TrigFlowNet(self.config), torch.Generator().manual_seed(self.seed)
        names = {module: name for name, module in drawn.named_modules()}
        for module in drawn.drawn():
            module.reset_parameters(generator)
            _copy(module, names[module], runs)
            module.to_empty(device="meta")
        _copy(drawn, "", runs)  # the gains, which start at zero


def _copy(module: nn.Module, name: str, runs: Mapping[str, LocalRun]) -> None:
    """Copy the tensors of a module of that name to where they belong; those on the meta device have been copied."""
    tensors = {**dict(module.named_parameters(name)), **dict(module.named_buffers(name))}
    for key in runs.keys() & tensors.keys():
        run, tensor = runs[key], tensors[key]
        if not tensor.is_meta:
            run.take(tensor)


def first_networks(spec: RunSpec, origin: Origin | None, start: Origin | None = None) -> dict[NetworkName, First]:
    """The networks in training of a run before its first step, by name.

    origin: the teacher of a student, or what a teacher starts from. start: the student that training goes on from, with
    its weighting: its loss is the same.
    """
    first, *others = PARTS[spec.method].trained
    config, seed = spec.network_config(), derive_seed(spec.seed, "init")
    own = First(config, seed, start) if start is not None else _first(spec, First(config, seed, origin))
    networks: dict[NetworkName, First] = {first: own}
    if FAKE in others:
        assert origin is not None, "a fake score starts from the teacher"
        # The teacher's network, which is told the student's guidance too.
        told = replace(origin.config, guidance=config.guidance)
        seeds = [derive_seed(spec.seed, what, FAKE) for what in ("init", "weighting")]
        networks[FAKE] = First(told, seeds[0], origin, seeds[1])
    return networks


def _first(spec: RunSpec, first: First) -> First:
    """The network that a run is sampled with, before its first step.

    One that is trained on gets a fresh weighting w(t): its loss has another scale than that which its weights come
    from, a student's than its teacher's, and a TrigFlow teacher's than EDM2's.
    """
    recipe = spec.recipe
    if first.origin is None or (isinstance(recipe, ConsistencyRecipe) and recipe.start == "scratch"):
        return replace(first, origin=None)
    return replace(first, weighting=derive_seed(spec.seed, "weighting")) if recipe.steps else first
