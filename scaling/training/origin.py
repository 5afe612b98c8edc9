"""Networks that runs start from or distil: in memory, at rest, or in another run's checkpoint.

Each rank of a sharded network reads its own share of them, from the file to where it belongs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.edm2 import OUT_GAIN
from models.network import NetworkConfig
from models.release import Release
from models.shape import BUFFERS, state_shapes
from models.sharded import LocalRun, local_runs
from models.trigflow import TrigFlowNet
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import profile_name
from scaling.training.sharding.pieces import Piece


def require_shapes(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """RuntimeError where not the very tensors that are wanted are found."""
    if differ := [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]:
        raise RuntimeError(f"{len(differ)} tensors are missing, surplus or of another shape, such as {differ[0]}")


class Origin(ABC):
    """A network by its shape and by its tensors, under the names of TrigFlowNet, of which any run can be had."""

    config: NetworkConfig

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The tensors that there are."""

    @abstractmethod
    def read(self, runs: Mapping[str, LocalRun]) -> None:
        """Fill these runs, of tensors that there are."""

    def fill(self, net: TrigFlowNet) -> None:
        """Fill what this rank holds of a network of this shape; RuntimeError where it is another one."""
        require_shapes(state_shapes(net.config), self.shapes())
        self.read(local_runs(net))

    def frozen(self) -> TrigFlowNet:
        """The whole network, not to be trained, on the CPU."""
        net = TrigFlowNet(self.config).requires_grad_(False)
        self.fill(net)
        return net


@dataclass(frozen=True)
class InMemory(Origin):
    """A whole state dict."""

    config: NetworkConfig
    state: Mapping[str, Tensor]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    @torch.no_grad()
    def read(self, runs: Mapping[str, LocalRun]) -> None:
        for name, run in runs.items():
            run.take(self.state[name])


@dataclass(frozen=True)
class AtRest(Origin):
    """Weights at rest, of EDM's F as TrigFlow's; their hashes are not looked at."""

    release: Release

    @property
    def config(self) -> NetworkConfig:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.release.config

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.release.tensors.items()}

    @torch.no_grad()
    def read(self, runs: Mapping[str, LocalRun]) -> None:
        self.release.read(runs)
        if self.release.content["parameterization"] == "edm" and OUT_GAIN in runs:
            runs[OUT_GAIN].local.neg_()


@dataclass(frozen=True)
class Averaged(Origin):
    """The parameters of one EMA profile in a checkpoint (see `profile_name`), and the buffers of its model."""

    config: NetworkConfig
    checkpoint: Checkpoint
    profile: float

    def _names(self) -> dict[str, str]:
        """Names in the checkpoint. CheckpointError where it holds no such average."""
        averaged = self.checkpoint.names(f"{profile_name(self.profile)}/")
        return {n: there for n, there in self.checkpoint.names("model/").items() if n.endswith(BUFFERS)} | averaged

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: self.checkpoint.stored[there].shape for name, there in self._names().items()}

    def read(self, runs: Mapping[str, LocalRun]) -> None:
        names, shapes = self._names(), self.shapes()
        self.checkpoint.read_into({names[n]: Piece(run.local, run.first, shapes[n]) for n, run in runs.items()})
