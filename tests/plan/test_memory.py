"""Predicted bytes a device: closed forms, relations between strategies, and what a real network holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.family import count_parameters
from models.network import NetworkConfig
from models.shape import network_shapes
from models.trigflow import TrigFlowNet
from scaling.config.recipes import Method
from scaling.config.sections import STRATEGIES, Strategy
from scaling.plan.memory.device import DeviceMemory, _largest_overlap, checkpoint_bytes, device_memory

NANO = NetworkConfig(8, 4, 10, 32, (1, 2), 1, (4,), head_channels=8)
P = count_parameters(NANO)
TENSORS = len(list(TrigFlowNet(NANO).parameters()))


def memory(strategy: Strategy, method: Method = "teacher", world: int = 2, **keys) -> DeviceMemory:
    settings = {"microbatch": 4, "precision": "fp32", "emas": 2, "checkpointing": False, "guided": False}
    settings["dropout_to"] = None
    return device_memory(NANO, method, strategy, world=world, **(settings | keys))


@pytest.mark.parametrize("world", [1, 64])
def test_a_replica_holds_everything(world: int) -> None:
    """DDP: 4 P of weights, 4 P of gradients, 8 P of moments and a step a tensor, 4 P an average."""
    found = memory("ddp", world=world)
    assert found.parameters == found.gradients == 4 * P
    assert found.optimizer == 8 * P + 4 * TENSORS
    assert (found.ema, found.gathered, found.frozen) == (8 * P, 0, 0)
    parts = found.parameters + found.gradients + found.optimizer + found.ema + found.activations
    assert found.total == parts


@pytest.mark.parametrize("world", [2, 3, 16])
def test_shards_are_cut_along_the_first_dimension_and_rounded_up(world: int) -> None:
    """The shards of every tensor as torch.chunk cuts it; the first device has the largest."""
    found = memory("fsdp2", world=world)
    largest = sum(p.chunk(world)[0].numel() for p in TrigFlowNet(NANO).parameters())
    assert found.parameters == found.gradients == 4 * largest
    assert found.ema == 8 * largest
    assert P / world <= largest < P


def test_hybrid_shards_within_a_node_of_eight() -> None:
    """Beyond a node more devices save nothing."""
    for part in ("parameters", "gradients", "optimizer", "ema", "gathered"):
        assert getattr(memory("hsdp", world=4), part) == getattr(memory("fsdp2", world=4), part)
        assert getattr(memory("hsdp", world=64), part) == getattr(memory("fsdp2", world=8), part)


def test_gathered_holds_the_root_and_blocks_but_not_the_network() -> None:
    """At least two blocks with the gradient of one; it does not shrink with more devices."""
    root, *blocks = network_shapes(NANO).elements
    assert root + sum(blocks) == P
    gathered = memory("fsdp2", world=2).gathered
    assert gathered == memory("fsdp2", world=64).gathered
    assert 4 * (root + 3 * max(blocks)) < gathered < 4 * (root + 4 * max(blocks))


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_zero_keeps_master_weights_beside_those_that_are_read(strategy: Strategy) -> None:
    """4 P of weights (ZeRO-3: a part of them), 4 P / N of master weights, 8 P / N of moments, 4 P / N an average."""
    for world in (2, 8):
        found = memory(strategy, world=world)
        weights = 4 * P / (world if strategy == "zero3" else 1)
        assert found.parameters == pytest.approx(weights + 4 * P / world, rel=1e-3)
        assert found.optimizer == pytest.approx(8 * P / world, rel=1e-3)
        assert found.ema == pytest.approx(2 * 4 * P / world, rel=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_changes_activations_alone(strategy: Strategy) -> None:
    """Weights, gradients, moments and averages are float32."""
    wide, half = (memory(strategy, "scd", precision=precision) for precision in ("fp32", "bf16"))
    assert half.activations < wide.activations
    assert replace(half, activations=0) == replace(wide, activations=0)


def test_later_stages_of_zero_hold_less() -> None:
    """Stage 2 sheds gradients, stage 3 weights."""
    one, two, three = (memory(s, world=8) for s in ("zero1", "zero2", "zero3"))
    assert one.gradients > two.gradients > three.gradients
    assert one.parameters == two.parameters > three.parameters


def test_the_largest_overlap_is_the_largest() -> None:
    """Against trying every tensor with every part."""
    sizes = [7, 1, 12, 3, 3, 30, 1, 1, 9]
    for part in (1, 4, 10, 17, 67, 100):
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        spans = [(end - n, end) for n, end in zip(sizes, ends, strict=True)]
        parts = [sum(b - a for a, b in spans if b > x and a < x + part) for x in range(0, sum(sizes), part)]
        assert _largest_overlap(sizes, part) == max(parts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_each_method_adds(strategy: Strategy) -> None:
    """sCD adds a frozen teacher to sCT, sCD+VSD a trained network to that, without an average; VSD has no tangents."""
    sct, scd, vsd, alone = (memory(strategy, method) for method in ("sct", "scd", "scd_vsd", "vsd"))
    teacher = memory(strategy, "teacher")
    assert sct.parameters == teacher.parameters
    assert sct.frozen == 0
    assert 0 < scd.frozen <= scd.parameters
    assert (vsd.parameters, vsd.gradients, vsd.optimizer) == tuple(
        2 * n for n in (sct.parameters, sct.gradients, sct.optimizer)
    )
    assert vsd.ema == scd.ema
    assert vsd.frozen == scd.frozen
    assert replace(alone, activations=0) == replace(vsd, activations=0)
    assert alone.activations == vsd.activations > scd.activations  # those of the generator are the most


def test_a_guided_student_has_a_guidance_input_and_its_teacher_has_not() -> None:
    """The input of guidance is a linear layer and a gain."""
    plain, guided = memory("ddp", "scd"), memory("ddp", "scd", guided=True)
    extra = count_parameters(replace(NANO, guidance=True)) - P
    assert extra > 32 * 64
    assert guided.parameters - plain.parameters == 4 * extra
    assert guided.frozen == plain.frozen == 4 * P


def test_gathered_weights_stay_for_the_normalisation_under_zero3() -> None:
    """A whole network of them, with checkpointing a block."""
    for checkpointing, elements in ((False, P), (True, max(network_shapes(NANO).elements))):
        for precision in ("fp32", "bf16"):
            keys = {"checkpointing": checkpointing, "precision": precision}
            assert memory("zero3", **keys).activations - memory("zero2", **keys).activations == 4 * elements
            assert memory("fsdp2", **keys).activations == memory("ddp", **keys).activations


@pytest.mark.parametrize("method", ["sct", "vsd", "scd_vsd"])
def test_a_checkpoint_holds_weights_buffers_averages_and_moments(method: Method) -> None:
    """Against the tensors of a real network."""
    net = TrigFlowNet(NANO)
    state = sum(x.nbytes for x in net.state_dict().values())
    weights = sum(x.nbytes for x in net.parameters())
    networks = 1 if method == "sct" else 2
    assert checkpoint_bytes(NANO, 3, method) == networks * (state + 2 * weights) + 3 * weights
    assert all(x.dtype == torch.float32 for x in net.state_dict().values())
