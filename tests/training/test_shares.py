"""Networks before their first step, spread over ranks: each gets its share of what one process would begin with."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import read_release
from models.encoders import FASHION_S2D
from models.network import NetworkConfig
from models.sharded import local_runs
from models.trigflow import TrigFlowNet
from scaling.config.sections import Launch
from scaling.training.origin import AtRest, InMemory, Origin
from scaling.training.sharding.parallel import build_engine, freeze
from scaling.training.sharding.world import joined
from scaling.training.start import First
from scaling.weights.folder import describe_network, save_model
from tests.models.networks import network
from tests.ranks import run_ranks

NET = NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8)
GUIDED = replace(NET, guidance=True, second_time=True)
ZERO = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra deepspeed")
Share = dict[str, tuple[int, np.ndarray]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network at rest."""
    state = network(torch.float32, NET).state_dict()
    return save_model(tmp_path_factory.mktemp("rest") / "w", describe_network(NET, FASHION_S2D), state).folder


def firsts(origin: Origin) -> list[First]:
    """Random; an origin's with a fresh weighting; of a network that is told more than its origin."""
    return [First(NET, 3), First(NET, 3, origin, 4), First(GUIDED, 5, origin)]


def drawn(config: NetworkConfig, seed: int) -> TrigFlowNet:
    net = TrigFlowNet(config)
    net.reset_parameters(torch.Generator().manual_seed(seed))
    return net


def began(strategy: Any, folder: Path) -> list[list[Share]]:
    """What a rank holds of each, as it is trained and as it is distilled."""
    launch, origin = Launch(strategy=strategy, shard_devices=2), AtRest(read_release(folder))
    with joined(torch.device("cpu")) as world:
        trained = [build_engine(first, launch, world).weights() for first in firsts(origin)]
        shares = [{name: (p.offset, p.local.numpy().copy()) for name, p in pieces.items()} for pieces in trained]
        frozen = local_runs(freeze(origin, launch, world))
        return [shares, [{name: (run.first, run.local.numpy().copy()) for name, run in frozen.items()}]]


def assert_held(shares: list[Share], wanted: dict[str, Tensor]) -> None:
    """Together the ranks have every element, each with its value; none has them all."""
    for name, value in wanted.items():
        held = torch.zeros(value.numel())
        for first, local in (share[name] for share in shares):
            held[first : first + len(local)] += 1
            assert np.array_equal(local, value.flatten()[first : first + len(local)]), name
        assert held.all(), name
    assert all(
        sum(len(local) for _, local in share.values()) < sum(v.numel() for v in wanted.values()) for share in shares
    )


def check(strategy: str, ranks: int, folder: Path) -> None:
    found, origin = run_ranks(ranks, began, strategy, folder), AtRest(read_release(folder))
    for number, first in enumerate(firsts(origin)):
        wanted = {name: p.detach() for name, p in first.whole().named_parameters()}
        assert_held([rank[0][number] for rank in found], wanted)
    assert_held([rank[1][0] for rank in found], read_release(folder).state())


def test_ranks_of_fsdp2_begin_with_their_rows(folder: Path) -> None:
    check("fsdp2", 3, folder)


@pytest.mark.nightly
def test_ranks_of_hsdp_begin_with_their_rows(folder: Path) -> None:
    check("hsdp", 4, folder)


@ZERO
def test_ranks_of_zero3_begin_with_their_parts(folder: Path) -> None:
    check("zero3", 2, folder)


def test_a_whole_network_begins_as_it_always_did(folder: Path) -> None:
    """Drawn in one pass; what an origin has over that; the weighting drawn anew from a seed of its own."""
    random, trained_on, told = (first.whole().state_dict() for first in firsts(AtRest(read_release(folder))))
    rest = read_release(folder).state()
    assert all(torch.equal(random[name], value) for name, value in drawn(NET, 3).state_dict().items())
    weighting = {name: value for name, value in _weighting(4).items() if name.startswith("logvar")}
    assert all(torch.equal(trained_on[name], value) for name, value in (rest | weighting).items())
    assert all(torch.equal(told[name], value) for name, value in (drawn(GUIDED, 5).state_dict() | rest).items())
    assert told.keys() > rest.keys()


def _weighting(seed: int) -> dict[str, Tensor]:
    net = TrigFlowNet(NET)
    net.reset_weighting(torch.Generator().manual_seed(seed))
    return net.state_dict()


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    other, state = replace(NET, model_channels=16), network(torch.float32, NET).state_dict()
    with pytest.raises(RuntimeError, match="of another shape, such as unet"):
        First(other, 0, AtRest(read_release(folder))).whole()
    del state["unet.out_gain"]
    with pytest.raises(RuntimeError, match=r"missing, surplus .* unet\.out_gain"):
        InMemory(NET, state).frozen()
