"""Bytes on one device in training, by what holds them, for each way to spread a run over devices.

Weights, gradients, moments and averages are float32 under every strategy; half precision is autocast's. ZeRO keeps
master weights beside those that the forward pass reads. What the libraries hold was read in their sources (torch 2.13,
DeepSpeed 0.19.8) and is checked by benchmarks/memory.py.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from itertools import accumulate, pairwise

from models.network import NetworkConfig
from models.shape import Shapes, network_shapes
from scaling.config.methods import FAKE, PARTS, is_distilled
from scaling.config.recipes import Method
from scaling.config.sections import Precision, Strategy
from scaling.plan.memory.activations import activation_bytes
from scaling.training.sharding.zero_config import bucket_elements

NODE = 8  # devices that share a fast link: the shard group of HSDP
WIDE = 4  # bytes of a float32
MOMENTS = 2  # of Adam, beside one number of steps for each parameter


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device that holds the most.

    parameters: what the forward pass reads, and master weights where those are others. gradients: at their most in the
    backward pass, buckets included. optimizer: Adam's state. ema: the averages. gathered: whole weights and gradients
    of the sharded blocks in flight. frozen: the teacher of a distilled student. activations: see `activations`.
    """

    parameters: int
    gradients: int
    optimizer: int
    ema: int
    gathered: int
    frozen: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, as if all parts peaked at one moment; gradients grow while activations are released."""
        return sum(getattr(self, field.name) for field in fields(self))


def device_memory(
    network: NetworkConfig,
    method: Method,
    strategy: Strategy,
    *,
    world: int,
    microbatch: int,
    precision: Precision,
    emas: int,
    checkpointing: bool,
    guided: bool,
    dropout_to: int | None,
    guides: int = 0,
) -> DeviceMemory:
    """The memory of a run on `world` devices with `microbatch` samples a device and pass.

    A student distilled with guidance has the guidance input, its teacher has not; guides: networks that guide the
    teacher, counted as large as that. VSD trains a fake score of the shape of the student beside it, without averages,
    and takes the gradient of each of its losses before the next: of their activations the most. They are counted with
    dropout, at resolutions up to `dropout_to` (None: all): without any, a teacher's are up to 9 % fewer.
    """
    parts, distilled = PARTS[method], is_distilled(method)
    student = replace(network, guidance=guided) if distilled else network
    trained = [student] * len(parts.trained)
    teacher = [replace(network, guidance=False, second_time=False)] * (1 + guides) if distilled else []
    held = [_held(each, strategy, world) for each in trained]
    # Beside ZeRO-3 the teacher is sharded by FSDP2.
    frozen = [_held(each, "fsdp2" if strategy == "zero3" else strategy, world) for each in teacher]
    step = partial(
        activation_bytes,
        student,
        batch=microbatch,
        dual=False,
        checkpointing=checkpointing,
        precision=precision,
        dropout_to=dropout_to,
    )
    return DeviceMemory(
        parameters=sum(h.weights + h.master for h in held),
        gradients=sum(h.gradients for h in held),
        optimizer=sum(h.optimizer for h in held),
        ema=emas * held[0].average,
        gathered=held[0].in_flight + sum(h.gathered for h in (*held, *frozen)),
        frozen=sum(h.weights for h in frozen),
        activations=_kept_copies(network_shapes(student), strategy, checkpointing)
        + max(step(dual=parts.tangents), step(scored="guided" if guided else "plain") if FAKE in parts.trained else 0),
    )


def _kept_copies(found: Shapes, strategy: Strategy, checkpointing: bool) -> int:
    """Weights that autograd keeps for the weight normalisation beyond the device's own: those that ZeRO-3 gathered stay
    for it after their release.
    """
    if strategy != "zero3":
        return 0
    return WIDE * (max(found.elements) if checkpointing else sum(found.elements))


def snapshot_bytes(network: NetworkConfig, emas: int) -> int:
    """Bytes of the tensors in one snapshot: each average, and the buffers."""
    found = network_shapes(network)
    return WIDE * (emas * sum(found.elements) + found.buffers)


def checkpoint_bytes(network: NetworkConfig, emas: int, method: Method) -> int:
    """Bytes of the tensors in one checkpoint: weights and buffers, each average, Adam's moments.

    A further network in training, such as VSD's fake score, is saved with its moments, without averages.
    """
    found = network_shapes(network)
    elements = sum(found.elements)
    trained = elements + found.buffers + MOMENTS * elements
    return WIDE * (trained * len(PARTS[method].trained) + emas * elements)


@dataclass(frozen=True)
class _Held:
    """Bytes that one device holds of one trained network; gathered: all the time, in_flight: of the one at work."""

    weights: int
    master: int
    gradients: int
    optimizer: int
    average: int
    gathered: int = 0
    in_flight: int = 0


@lru_cache
def _held(network: NetworkConfig, strategy: Strategy, world: int) -> _Held:
    return _LAYOUTS[strategy](network_shapes(network), world)


def _replicated(found: Shapes, world: int) -> _Held:
    """DDP: everything on every device; gradients are views of the buckets they are reduced in."""
    whole = WIDE * sum(found.elements)
    return _Held(whole, 0, whole, MOMENTS * whole + WIDE * len(found.tensors), whole)


def _fully_sharded(found: Shapes, world: int) -> _Held:
    """FSDP2 of each block and of the root: every tensor is cut in `world` along its first dimension, rounded up.

    The root stays whole from forward to backward. Of the blocks, the one at work and the next are whole; so is one
    block's gradient, twice: as computed, and laid out for reduce-scatter.
    """
    shard = WIDE * sum(math.ceil(shape[0] / world) * math.prod(shape[1:]) for shape in found.tensors)
    root, *blocks = (WIDE * n for n in found.elements)
    pair = max(map(sum, pairwise(blocks)))
    steps = WIDE * len(found.tensors)
    return _Held(shard, 0, shard, MOMENTS * shard + steps, shard, root, pair + 2 * max(blocks))


def _hybrid(found: Shapes, world: int) -> _Held:
    """HSDP: sharded within a node, replicated across nodes."""
    return _fully_sharded(found, min(world, NODE))


def _zero12(found: Shapes, world: int, *, stage: int) -> _Held:
    """ZeRO-1 and 2: all tensors as one flat vector, padded; a device has a part of master weights, moments, averages.

    Stage 1 holds all gradients until the backward pass is over, stage 2 one bucket and the next tensor's; both then
    keep those of every tensor that reaches into the own part.
    """
    sizes = [math.prod(shape) for shape in found.tensors]
    part = math.ceil(sum(sizes) / (2 * world)) * 2
    bucket = bucket_elements(max(found.elements))
    in_flight = sum(sizes) if stage == 1 else bucket + max(sizes)
    gradients = WIDE * (in_flight + _largest_overlap(sizes, part))
    return _Held(WIDE * part * world, WIDE * part, gradients, WIDE * (MOMENTS * part + 1), WIDE * part)


def _zero3(found: Shapes, world: int) -> _Held:
    """ZeRO-3: each tensor flat and cut in `world`, rounded up; the bucket of gradients is held all the time.

    Whole at once are the blocks that `zero_config` lets live, and one that is fetched ahead.
    """
    part = sum(math.ceil(math.prod(shape) / world) for shape in found.tensors)
    bucket = bucket_elements(max(found.elements))
    live = min(sum(found.elements), 3 * bucket)
    own = WIDE * part
    return _Held(own, own, own + WIDE * bucket, WIDE * (MOMENTS * part + 1), own, 0, WIDE * live)


def _largest_overlap(sizes: Sequence[int], part: int) -> int:
    """The most elements that the tensors reaching into one part of the flat vector have together."""
    edges = [0, *accumulate(sizes)]
    starts = range(0, edges[-1], part)
    return max(edges[bisect_left(edges, min(x + part, edges[-1]))] - edges[bisect_right(edges, x) - 1] for x in starts)


_LAYOUTS: dict[Strategy, Callable[[Shapes, int], _Held]] = {
    "ddp": _replicated,
    "fsdp2": _fully_sharded,
    "hsdp": _hybrid,
    "zero1": partial(_zero12, stage=1),
    "zero2": partial(_zero12, stage=2),
    "zero3": _zero3,
}
