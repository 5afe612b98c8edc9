"""What a run starts from: random weights, its teacher's, or a network at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.network import NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.methods import FAKE, PARTS, NetworkName
from scaling.config.recipes import ConsistencyRecipe
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import profile_name

# What a student has beyond its teacher, which is told neither a guidance strength nor where to lead; the gain of each
# starts at zero, so that it starts as the teacher.
GUIDANCE_KEYS, TO_KEYS = (
    tuple(f"unet.{layer}{key}" for key in (".weight", "_gain", "_fourier.freqs", "_fourier.phases"))
    for layer in ("emb_guidance", "emb_to")
)


@dataclass(frozen=True)
class Origin:
    """The network that a run starts from or distils: its shape, and its state by the names of TrigFlowNet."""

    config: NetworkConfig
    state: Mapping[str, Tensor]

    def frozen(self) -> TrigFlowNet:
        """The network, not to be trained; RuntimeError names keys of the state that are missing or surplus."""
        with torch.device("meta"):
            net = TrigFlowNet(self.config)
        # Copies: what safetensors loads is mapped, and would follow the file.
        net.load_state_dict({name: tensor.clone() for name, tensor in self.state.items()}, assign=True)
        return net.requires_grad_(False)


def averaged_weights(found: Checkpoint, profile: float) -> dict[str, Tensor]:
    """A whole state dict with the parameters of one EMA profile (see `profile_name`) and the buffers of the model."""
    return {**found.part("model/"), **found.part(f"{profile_name(profile)}/")}


def build_network(config: NetworkConfig, seed: int) -> TrigFlowNet:
    """A network, its weights drawn from `seed` on the CPU so that they are the same on every device."""
    net = TrigFlowNet(config)
    net.reset_parameters(torch.Generator().manual_seed(seed))
    return net


def first_networks(spec: RunSpec, origin: Origin | None, start: Origin | None = None) -> dict[NetworkName, TrigFlowNet]:
    """The networks in training of a run before its first step, by name, on the CPU.

    start: the student that training goes on from, with its weighting: its loss is the same. RuntimeError where the
    state of either does not fit.
    """
    first, *others = PARTS[spec.method].trained
    net = first_network(spec, origin if start is None else None)
    if start is not None:
        _take_over(net, start)
    networks: dict[NetworkName, TrigFlowNet] = {first: net}
    if FAKE in others:
        assert origin is not None, "a fake score starts from the teacher"
        networks[FAKE] = _fake_score(spec, origin)
    return networks


def _fake_score(spec: RunSpec, teacher: Origin) -> TrigFlowNet:
    """The teacher's network, which is told the student's guidance too, with a fresh weighting."""
    config = replace(teacher.config, guidance=spec.network_config().guidance)
    net = build_network(config, derive_seed(spec.seed, "init", FAKE))
    _take_over(net, teacher)
    net.reset_weighting(torch.Generator().manual_seed(derive_seed(spec.seed, "weighting", FAKE)))
    return net


def _take_over(net: TrigFlowNet, origin: Origin) -> None:
    """Load what the origin has; what a network that is told more has beyond it stays."""
    own = net.state_dict()
    added = {name: own[name] for name in GUIDANCE_KEYS if net.config.guidance}
    added |= {name: own[name] for name in TO_KEYS if net.config.second_time}
    net.load_state_dict({**added, **origin.state})


def first_network(spec: RunSpec, origin: Origin | None) -> TrigFlowNet:
    """The network that a run is sampled with, before its first step.

    One that is trained on gets a fresh weighting w(t): its loss has another scale than that which its weights come
    from, a student's than its teacher's, and a TrigFlow teacher's than EDM2's.
    """
    net = build_network(spec.network_config(), derive_seed(spec.seed, "init"))
    recipe = spec.recipe
    if origin is None or (isinstance(recipe, ConsistencyRecipe) and recipe.start == "scratch"):
        return net
    _take_over(net, origin)
    if recipe.steps:
        net.reset_weighting(torch.Generator().manual_seed(derive_seed(spec.seed, "weighting")))
    return net
