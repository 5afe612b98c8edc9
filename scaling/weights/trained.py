"""The network of a checkpoint, as its run is sampled."""

from __future__ import annotations

import torch

from models.trigflow import TrigFlowNet
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.start import averaged_weights


def load_network(found: Checkpoint, spec: RunSpec, device: torch.device) -> TrigFlowNet:
    """The network of a checkpoint with the averaged weights that its run is sampled with."""
    profile = spec.sampling.teacher_ema if spec.method == "teacher" else spec.sampling.student_ema
    net = TrigFlowNet(spec.network_config())
    net.load_state_dict(averaged_weights(found, profile))
    return net.to(device).eval().requires_grad_(False)
