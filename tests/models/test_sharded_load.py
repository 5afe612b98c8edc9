"""A release read into networks that are spread over ranks: each gets its share, and together they have every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import load_release, read_release
from models.encoders import FASHION_S2D
from models.release import ModelError
from models.sharded import local_runs
from models.tensor_files import open_runs
from models.trigflow import TrigFlowNet
from scaling.config.families import load_family
from scaling.training.start import First
from scaling.weights.folder import describe_network, save_model
from tests.ranks import run_ranks

NANO = load_family("nano").size("xs")
X, T, LABELS = torch.ones(1, 4, 8, 8), torch.ones(1), torch.zeros(1, dtype=torch.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at rest, whose output is not zero."""
    state = First(NANO, 0).whole().state_dict()
    state |= {name: torch.ones(1) for name in state if name.endswith("_gain")}
    return save_model(tmp_path_factory.mktemp("rest") / "w", describe_network(NANO, FASHION_S2D), state).folder


def fsdp_shares(folder: Path, mesh_shape: tuple[int, ...]) -> dict[str, tuple[int, np.ndarray]]:
    """What a rank of FSDP2 (one dimension) or HSDP (two) holds after loading."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from models.unet import Block
    from scaling.training.sharding.world import joined

    with joined(torch.device("cpu")), torch.no_grad():
        mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("copies", "shards")[-len(mesh_shape) :])
        with torch.device("meta"):
            net = TrigFlowNet(NANO)
        for module in net.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        fully_shard(net, mesh=mesh)
        with pytest.raises(ValueError, match="call to_empty"):
            read_release(folder).load_into(net)
        net.to_empty(device="cpu")
        read_release(folder).load_into(net)
        shares = {name: (run.first, run.local.numpy().copy()) for name, run in local_runs(net).items()}
        assert torch.equal(net(X, T, LABELS), load_release(folder)(X, T, LABELS))
        return shares


def zero_shares(folder: Path) -> dict[str, tuple[int, np.ndarray]]:
    """What a rank of ZeRO-3 holds after loading."""
    from scaling.training.sharding.world import joined
    from scaling.training.sharding.zero import _deepspeed

    with joined(torch.device("cpu")) as world:
        deepspeed = _deepspeed(world)
        config = {"zero_optimization": {"stage": 3}, "train_batch_size": world.size}
        with deepspeed.zero.Init(config_dict_or_path=config):
            net = TrigFlowNet(NANO)
        read_release(folder).load_into(net)
        shares = {name: (run.first, run.local.numpy().copy()) for name, run in local_runs(net).items()}
        with deepspeed.zero.GatheredParameters([*net.parameters()]):
            state = read_release(folder).state()
            assert all(torch.equal(parameter, state[name]) for name, parameter in net.named_parameters())
        return shares


def assert_whole(folder: Path, shares: list[dict[str, Any]], copies: int = 1) -> None:
    """Each element of a parameter is held by `copies` ranks, with its value; no rank holds them all."""
    state = read_release(folder).state()
    for name, value in state.items():
        held = torch.zeros(value.numel())
        for share in shares:
            first, local = share[name]
            held[first : first + len(local)] += 1
            assert np.array_equal(local, value.flatten()[first : first + len(local)])
        counted = len(shares) if name.endswith(("freqs", "phases")) else copies
        assert held.unique().tolist() == [counted], name
    total = sum(value.numel() for value in state.values())
    for share in shares:
        assert sum(len(local) for _, local in share.values()) < 0.75 * total


def test_ranks_of_fsdp2_read_their_rows(folder: Path) -> None:
    assert_whole(folder, run_ranks(3, fsdp_shares, folder, (3,)))


@pytest.mark.nightly
def test_ranks_of_hsdp_read_their_rows(folder: Path) -> None:
    assert_whole(folder, run_ranks(4, fsdp_shares, folder, (2, 2)), copies=2)


def test_ranks_of_zero3_read_their_parts(folder: Path) -> None:
    assert_whole(folder, run_ranks(2, zero_shares, folder))


def test_a_run_is_read_from_anywhere_in_any_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks too, whose ends fall anywhere."""
    found = read_release(folder)
    name = "unet.enc.8x8_block0.conv_res0.weight"
    whole, stored = found.state()[name].flatten(), found.tensors[name]
    monkeypatch.setattr("models.tensor_files.CHUNK", 28)
    with open_runs() as reader:
        for first, count in ((0, len(whole)), (5, 17), (len(whole) - 3, 3), (len(whole), 0)):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                into = torch.full((count,), -1, dtype=dtype)
                reader.read(stored, first, into)
                assert torch.equal(into, whole[first : first + count].to(dtype))
        with pytest.raises(ValueError, match="of a tensor"):
            reader.read(stored, 1, torch.empty(len(whole)))


def test_a_whole_network_and_another_one(folder: Path) -> None:
    found = read_release(str(folder))
    net = TrigFlowNet(NANO).to(torch.bfloat16)
    found.load_into(net)
    assert all(torch.equal(value, found.state()[name].bfloat16()) for name, value in net.named_parameters())
    with pytest.raises(ModelError, match="holds the network"):
        found.load_into(TrigFlowNet(load_family("nano").size("s")))
