"""What a run starts from: random weights, its teacher's, or a network at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network import NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.sections import ConsistencyRecipe
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import profile_name

# What a student with guidance has beyond its teacher; its gain starts at zero, so that it starts as the teacher.
GUIDANCE_KEYS = tuple(f"unet.emb_guidance{key}" for key in (".weight", "_gain", "_fourier.freqs", "_fourier.phases"))


@dataclass(frozen=True)
class Origin:
    """The network that a run starts from or distils: its shape, and its state by the names of TrigFlowNet.

    start: the state that a student goes on from, where that is not its teacher's.
    """

    config: NetworkConfig
    state: Mapping[str, Tensor]
    start: Mapping[str, Tensor] | None = None

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


def first_network(spec: RunSpec, origin: Origin | None) -> TrigFlowNet:
    """The network of a run before its first step, on the CPU; RuntimeError where the origin's state does not fit.

    One that is trained on gets a fresh weighting w(t): its loss has another scale than that which its weights come
    from, a student's than its teacher's, and a TrigFlow teacher's than EDM2's. A student that goes on keeps its own.
    """
    net = build_network(spec.network_config(), derive_seed(spec.seed, "init"))
    recipe = spec.recipe
    if origin is None or (isinstance(recipe, ConsistencyRecipe) and recipe.start == "scratch"):
        return net
    own = net.state_dict()
    added = {name: own[name] for name in GUIDANCE_KEYS if net.config.guidance}
    if origin.start is not None:
        net.load_state_dict({**added, **origin.start})
        return net
    net.load_state_dict({**origin.state, **added})
    if recipe.steps:
        net.reset_weighting(torch.Generator().manual_seed(derive_seed(spec.seed, "weighting")))
    return net
