"""The network of a checkpoint, as its run is sampled."""

from __future__ import annotations

import torch

from models.trigflow import TrigFlowNet
from scaling.run.home import RunHome
from scaling.run.spec import RunSpec
from scaling.training.checkpoints import checkpoint
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.checkpoints.files import CheckpointError
from scaling.training.start import averaged_weights


def load_network(found: Checkpoint, spec: RunSpec, device: torch.device) -> TrigFlowNet:
    """The network of a checkpoint with the averaged weights that its run is sampled with.

    Raises CheckpointError where it holds another network's.
    """
    profile = spec.sampling.teacher_ema if spec.method == "teacher" else spec.sampling.student_ema
    net = TrigFlowNet(spec.network_config())
    try:
        net.load_state_dict(averaged_weights(found, profile))
    except RuntimeError as error:
        raise CheckpointError(f"{found.path}: holds weights of another network than its run's: {error}") from error
    return net.to(device).eval().requires_grad_(False)


def final_network(home: RunHome, spec: RunSpec, device: torch.device) -> TrigFlowNet:
    """The network of a run that is trained to its last step, as it is sampled. CheckpointError."""
    return load_network(checkpoint.load(checkpoint.path_of(home.checkpoints, spec.recipe.steps)), spec, device)
