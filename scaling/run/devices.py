"""The device of a run, and how tensors reach it."""

from __future__ import annotations

import torch
from torch import Tensor

from scaling.config.sections import Launch
from scaling.config.validation import ConfigError


def pick_device(launch: Launch) -> torch.device:
    """The device of launch.device; ConfigError where there is no GPU though one was asked for."""
    if launch.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("launch.device: cuda, but torch sees no GPU: set it to auto or cpu")
    use_gpu = launch.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def onto(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for what a GPU has yet to do before the copy."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
