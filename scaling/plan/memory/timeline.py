"""The timeline of the memory of a training step, counted by running the real step without any memory.

The objective runs forward and backward on the meta device, on which tensors have shapes and no content, and each
storage is followed from its allocation to its release. Batch and width are large primes there: the powers in which they
divide a storage's size say how it grows, so that one count serves every batch and every width of a family. What a
kernel allocates and frees inside one operation (convolution workspaces, tiles of attention) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.dropout import Dropout
from models.network import NetworkConfig
from models.trigflow import TrigFlowNet
from scaling.config.methods import FAKE, STUDENT, TEACHER, NetworkName
from scaling.config.sections import Precision
from scaling.methods.batch import Batch, Noise
from scaling.methods.consistency import consistency_loss
from scaling.methods.tangent import Tangent
from scaling.methods.teacher import teacher_loss
from scaling.methods.vsd import distillation_loss
from scaling.plan.memory.activations import WIDTH, Scored
from scaling.plan.memory.cache import Timeline
from scaling.plan.meta.recompute import without_compiler
from scaling.plan.meta.shapes import ShapesOnly, run

NAMES: tuple[NetworkName, ...] = (STUDENT, FAKE, TEACHER)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH = 10007  # as WIDTH a prime that no other length of a network is a multiple of


def count_timeline(
    network: NetworkConfig,
    dual: bool,
    checkpointing: bool,
    precision: Precision,
    dropout_to: int | None,
    scored: Scored = None,
) -> Timeline:
    """Live bytes at the moments that can be the peak of a step; model_channels are a multiple of WIDTH."""
    events = transient_events(network, BATCH, dual, checkpointing, precision, dropout_to, scored)
    table = np.zeros((len(events), 6), np.int64)
    for row, size in enumerate(events):
        column, factor = _growth(abs(size))
        table[row, column] = factor if size > 0 else -factor
    rises = np.array(events) > 0
    return _front(table.cumsum(0)[rises & ~np.append(rises[1:], False)])  # more may follow a rise, less a fall


def transient_events(
    network: NetworkConfig,
    batch: int,
    dual: bool,
    checkpointing: bool,
    precision: Precision,
    dropout_to: int | None,
    scored: Scored = None,
) -> list[int]:
    """Bytes taken and (negative) given back in one step, in order; what outlives it, the gradients, is left out."""
    with torch.device("meta"), ShapesOnly():
        networks: dict[NetworkName, TrigFlowNet] = {
            name: TrigFlowNet(replace(network, guidance=scored == "guided" and name != TEACHER))
            for name in (NAMES if scored else (STUDENT,))
        }
        x = torch.empty(batch, network.latent_channels, network.resolution, network.resolution)
        t, labels = torch.empty(batch), torch.zeros(batch, dtype=torch.int64)
    net = networks[STUDENT]
    net.unet.activation_checkpointing = checkpointing
    strength = t if scored == "guided" else None
    samples = Batch(x, x, t, labels, Dropout(0.1, labels, dropout_to), strength, further={"vsd": Noise(x, t)})
    tracker = LiveBytes()
    with without_compiler(), tracker, _autocast(precision):
        if scored:
            step = distillation_loss(networks, samples)
        else:
            step = consistency_loss(net, samples, x, 1.0, Tangent()) if dual else teacher_loss(net, samples)
        step.loss.backward()
    del step
    freed = {serial for serial, size in tracker.events if size < 0}
    return [size for serial, size in tracker.events if serial in freed]


def _front(rows: np.ndarray) -> Timeline:
    """The rows of which one is the peak, whatever the width is, and the batch from 1 on.

    Left out is a row that another exceeds in every power of the width, at one sample and in what each further adds.
    """
    bounds = np.hstack([rows[:, :3] + rows[:, 3:], rows[:, 3:]])
    kept, left = [], np.arange(len(rows))
    while len(left):
        largest = left[bounds[left].sum(1).argmax()]
        kept.append(rows[largest].tolist())
        left = left[(bounds[left] > bounds[largest]).any(1)]
    return kept


@lru_cache
def _growth(size: int) -> tuple[int, int]:
    """Column of the table and factor: size = factor * WIDTH^a * BATCH^b, column a + 3 b."""
    a = b = 0
    while size % WIDTH == 0:
        size, a = size // WIDTH, a + 1
    while size % BATCH == 0:
        size, b = size // BATCH, b + 1
    assert a <= 2, "grows faster than a weight"
    assert b <= 1, "grows faster than a batch"
    return a + 3 * b, size


class LiveBytes(ShapesOnly):
    """Follows every storage that an operation makes; `events` holds (serial number, +-bytes) in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self._living: dict[int, weakref.ref[Any]] = {}
        self._serial = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = run(func, args, kwargs or {})
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self._follow(x.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._living or not size:
            return
        self._serial += 1
        serial = self._serial

        def freed(_: object) -> None:
            del self._living[address]
            self.events.append((serial, -size))

        self._living[address] = weakref.ref(storage, freed)
        self.events.append((serial, size))


class _Autocast(TorchFunctionMode):
    """What autocast does to the matrix products; the meta device has no autocast of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.conv2d, F.linear):
            args = tuple(x.to(self.dtype) if isinstance(x, Tensor) else x for x in args)
        return func(*args, **(kwargs or {}))


def _autocast(precision: Precision) -> AbstractContextManager[object]:
    return nullcontext() if precision == "fp32" else _Autocast(DTYPES[precision])
