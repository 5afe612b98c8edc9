"""ZeRO-1, -2 and -3 through DeepSpeed: moments, then gradients, then weights too are spread over the ranks.

Only DeepSpeed's partitions, their collectives and its hooks are used. It computes in float32 (autocast is around the
loss), and whether a step is taken, the loss scale and the accumulation of gradients are decided here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NetworkConfig
from models.primitives import EPS, MPLinear
from models.trigflow import TrigFlowNet
from models.unet import Block
from scaling.config.recipes import OptimizerName
from scaling.errors import ParallelError
from scaling.training.sharding.engine import MOMENTS, Engine, first_state, make_optimizer
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World
from scaling.training.sharding.zero_config import zero_config


@dataclass(frozen=True)
class _Overlap:
    """Elements [offset, offset + count) of a parameter lie in master vector number `group` from `first` on."""

    group: int
    first: int
    count: int
    offset: int


def _largest(module: TrigFlowNet) -> int:
    """Elements of the largest block, or of what lies in no block."""

    def elements(part: nn.Module) -> int:
        return sum(getattr(p, "ds_numel", p.numel()) for p in part.parameters())

    blocks = [elements(each) for each in module.modules() if isinstance(each, Block)]
    return max(elements(module) - sum(blocks), *blocks)


def made_in_parts(config: NetworkConfig, world: World) -> TrigFlowNet:
    """A network of which each rank holds its part of ZeRO-3: a tensor is cut as soon as it is there; nothing is set."""
    with torch.device("meta"):
        largest = _largest(TrigFlowNet(config))
    settings = {**zero_config(largest, 3), "train_micro_batch_size_per_gpu": 1}
    # float32 by its own default: told so by dtype=, DeepSpeed 0.19.8 takes bfloat16 where a device knows no float16.
    with _deepspeed(world).zero.Init(config_dict_or_path=settings):
        return TrigFlowNet(config)


class ZeroEngine(Engine):
    """ZeRO of `stage` 1, 2 or 3 over all ranks of the world; of a whole network, or one made in parts."""

    def __init__(self, module: TrigFlowNet, world: World, stage: int, kind: OptimizerName = "adam") -> None:
        super().__init__(module, world, kind)
        deepspeed = _deepspeed(world)
        self.net, self.stage = module, stage
        self.shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()}
        if stage == 3:
            # Blocks are gathered and reduced as a whole: their weights are needed until the normalisation's backward.
            deepspeed.utils.set_z3_leaf_modules(module, [Block])
        self.optimizer = make_optimizer(kind, module.parameters())
        settings = {
            **zero_config(_largest(module), stage),
            "train_micro_batch_size_per_gpu": 1,  # asked for, and used for nothing but a rate that is switched off
            "timers": {"throughput": {"enabled": False}},
            "zero_allow_untested_optimizer": True,  # RAdam too works element by element on the partitions
        }
        started: tuple[Any, ...] = deepspeed.initialize(model=module, optimizer=self.optimizer, config=settings)
        self.engine, self.zero = started[:2]
        zero = self.zero
        self.masters: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        )
        self.runs = dict(self._partitions() if stage == 3 else self._slices())
        for master in self.masters:
            self.optimizer.state[master] = first_state(kind, master)

    def _slices(self) -> Iterator[tuple[str, _Overlap]]:
        """Stages 1 and 2: all tensors as one flat vector, padded, of which each rank has one part."""
        size, begin = self.masters[0].numel(), 0
        start = size * self.world.rank
        for name, parameter in self.module.named_parameters():
            end = begin + parameter.numel()
            low, high = min(max(begin, start), end), max(min(end, start + size), begin)
            count = max(high - low, 0)
            yield name, _Overlap(0, low - start if count else 0, count, low - begin)
            begin = end

    def _partitions(self) -> Iterator[tuple[str, _Overlap]]:
        """Stage 3: each tensor flat, padded and cut into equal parts; parts of several lie one after the other."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for group, parameters in enumerate(self.zero.fp16_groups):
            first = 0
            for parameter in parameters:
                part = parameter.partition_numel()
                offset = min(part * self.world.rank, parameter.ds_numel)
                yield names[id(parameter)], _Overlap(group, first, min(part, parameter.ds_numel - offset), offset)
                first += part

    @contextmanager
    def micro(self, last: bool) -> Iterator[None]:
        # The module is called itself: DeepSpeed's forward would switch autocast off. This is what else it does.
        self.zero.clear_backward_seen_flag()
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def gradients(self) -> dict[str, Tensor]:
        """This rank's part of the averaged gradient; where it holds none of a tensor, nothing or zeros."""
        held = [name for name, run in self.runs.items() if run.count or self.stage == 3]
        averaged = [gradient for group in self.zero.averaged_gradients.values() for gradient in group]
        return dict(zip(held, averaged, strict=False))  # after them padding, in stages 1 and 2

    def grad_norm(self) -> Tensor:
        norms = torch._foreach_norm(list(self.gradients().values()))  # pyright: ignore[reportPrivateImportUsage]
        squares = torch.stack(norms).square().sum() if norms else torch.zeros((), device=self.world.device)
        return self.world.total(squares).sqrt()

    def step(self, lr: float, scale: float) -> None:
        if scale != 1:
            torch._foreach_mul_(list(self.gradients().values()), 1 / scale)  # pyright: ignore[reportPrivateImportUsage]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.zero.step()
        assert not self.zero.overflow, "DeepSpeed dropped a step whose gradient is finite"
        self.zero.zero_grad()
        self._force_weight_norm()

    def discard(self) -> None:
        self.zero.zero_grad()
        for kept in (self.zero.averaged_gradients, getattr(self.zero, "all_grad_tensors", {})):
            kept.update(dict.fromkeys(kept))

    def weights(self) -> Mapping[str, Piece]:
        return self._pieces([master.detach() for master in self.masters])

    def moments(self) -> Mapping[str, Mapping[str, Piece]]:
        state = self.optimizer.state
        return {moment: self._pieces([state[master][moment] for master in self.masters]) for moment in MOMENTS}

    def _pieces(self, vectors: Sequence[Tensor]) -> dict[str, Piece]:
        return {
            name: Piece(vectors[run.group][run.first : run.first + run.count], run.offset, self.shapes[name])
            for name, run in ((name, self.runs[name]) for name in self.shapes)
        }

    def loaded(self, updates: int) -> None:
        for master in self.masters:
            self.optimizer.state[master]["step"].fill_(updates)
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Bring the master weights to what the forward pass reads."""
        if self.stage < 3:
            self.zero.update_lp_params()
            return
        self.zero.parameter_offload.partition_all_parameters()  # whole weights that are still there are old
        for shard, master in zip(self.zero.fp16_partitioned_groups_flat, self.masters, strict=True):
            shard.data.copy_(master)

    @torch.no_grad()
    def _force_weight_norm(self) -> None:
        if self.stage < 3:
            # Every rank has the whole weights; the master weights are a copy of its part of them.
            self.module.force_weight_norm()
            self.masters[0].copy_(self.zero.parallel_partitioned_bit16_groups[0][self.world.rank])
            return
        weights = self.weights()
        layers = [name for name, module in self.module.named_modules() if isinstance(module, MPLinear)]
        force_weight_norm([weights[f"{layer}.weight"] for layer in layers], self.world)
        self._publish()


@torch.no_grad()
def force_weight_norm(pieces: Sequence[Piece], world: World) -> None:
    """Bring every output unit of the weights [o, ...] to RMS one, where runs may end anywhere in a row.

    Each element of a weight is held by one rank; the sums of squares of all rows are summed in one collective.
    """
    rows = [piece.shape[0] for piece in pieces]
    squares = torch.zeros(sum(rows), device=world.device)
    for piece, sums in zip(pieces, squares.split(rows), strict=True):
        first, whole = _rows(piece)
        sums[first : first + len(whole)] = whole.square().sum(1)
    world.total(squares)
    for piece, sums in zip(pieces, squares.split(rows), strict=True):
        first, whole = _rows(piece)
        scale = 1 / (EPS + (sums[first : first + len(whole), None] / whole.shape[1]).sqrt())
        front = piece.offset - first * whole.shape[1]
        piece.local.copy_((whole * scale).flatten()[front : front + len(piece.local)])


def _rows(piece: Piece) -> tuple[int, Tensor]:
    """The first row that a run reaches into, and all that it does [rows, width]; zeros where it holds nothing."""
    width = piece.numel // piece.shape[0]
    end = piece.offset + len(piece.local)
    first = piece.offset // width
    return first, F.pad(piece.local, (piece.offset - first * width, -end % width)).view(-1, width)


def _deepspeed(world: World) -> Any:
    """The package, on the device of the world; ParallelError without it."""
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # read when it is imported
    try:
        import deepspeed
    except ImportError:
        raise ParallelError(
            "launch.strategy: ZeRO needs DeepSpeed: pip install 'trigscale[deepspeed]', or choose fsdp2"
        ) from None
    if not torch.distributed.is_initialized():
        raise ParallelError("launch.strategy: ZeRO needs a process group: start the run as ranks, or choose ddp")
    # It calls collectives by names that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Its shared-memory operator would be compiled at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    return deepspeed
