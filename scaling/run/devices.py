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
    return torch.device("cpu") if launch.device == "cpu" else any_device()


def any_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def onto(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for what a GPU has yet to do before the copy."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
