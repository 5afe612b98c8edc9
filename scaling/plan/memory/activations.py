"""Activation memory of a training step, for any width and batch, from a timeline that is counted once.

`scaling.plan.memory.timeline` counts it, which takes torch and a second. One that is shipped, or in the user's cache,
takes neither.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from models.network import NetworkConfig
from scaling.config.sections import Precision
from scaling.plan.memory.cache import Timeline, opened
from scaling.plan.memory.shipped import shipped

Scored = Literal["plain", "guided"] | None  # by which teacher the samples of a generator are judged, if they are
WIDTH = 10009  # a prime that no other length of a network is a multiple of; see `timeline`


def activation_bytes(
    network: NetworkConfig,
    *,
    batch: int,
    dual: bool,
    checkpointing: bool,
    precision: Precision,
    dropout_to: int | None = 0,
    scored: Scored = None,
) -> int:
    """The most bytes that a step on `batch` samples holds beyond parameters, their gradients and the samples.

    `dual`: the step of a consistency model, whose tangents are alive beside the values; else the teacher's. `scored`:
    instead of these that of VSD's generator, whose graph waits while the teacher, guided or not, and the fake score
    judge its samples. At a peak are the tensors that autograd keeps (`checkpointing`: the inputs of the blocks, and one
    block's), the normalised weights, and what the operation in flight reads and writes. `precision` is autocast's.
    `dropout_to`: the finest resolution at which blocks drop features; 0: none do, None: all. Inputs of guidance and
    of a second time, some vectors, are left out.
    """
    timeline = _timeline(any_width(network), dual, checkpointing, precision, dropout_to, scored)
    width = network.model_channels / (2 * network.head_channels)
    growth = [width**a * batch**b for b in (0, 1) for a in (0, 1, 2)]
    return round(max(sum(x * y for x, y in zip(moment, growth, strict=True)) for moment in timeline))


def any_width(network: NetworkConfig) -> NetworkConfig:
    """The network whose timeline serves all widths: model_channels are WIDTH times 2 head_channels."""
    return replace(network, model_channels=2 * network.head_channels * WIDTH, guidance=False, second_time=False)


def timeline_key(
    network: NetworkConfig,
    dual: bool,
    checkpointing: bool,
    precision: Precision,
    dropout_to: int | None,
    scored: Scored = None,
) -> str:
    """What a timeline is known by: both half precisions take the same bytes."""
    described = [network.describe(), dual, checkpointing, precision == "fp32", dropout_to]
    described += [scored] if scored else []
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache
def _timeline(
    network: NetworkConfig,
    dual: bool,
    checkpointing: bool,
    precision: Precision,
    dropout_to: int | None,
    scored: Scored,
) -> Timeline:
    key = timeline_key(network, dual, checkpointing, precision, dropout_to, scored)
    if (known := shipped().get(key) or opened().get(key)) is not None:
        return known
    from scaling.plan.memory.timeline import count_timeline

    found = count_timeline(network, dual, checkpointing, precision, dropout_to, scored)
    opened().add(key, found)
    return found
