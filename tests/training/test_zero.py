"""ZeRO-1, -2 and -3 at the engine: the numbers of one process, exact skips, state that moves between worlds."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dropout import Dropout
from models.network import NetworkConfig
from models.primitives import MPLinear
from models.trigflow import SIGMA_DATA, TrigFlowNet
from scaling.errors import ParallelError
from scaling.methods.batch import Batch
from scaling.methods.consistency import consistency_loss, data_velocity, teacher_velocity
from scaling.methods.tangent import Tangent
from scaling.methods.teacher import teacher_loss
from scaling.training.sharding.engine import ADAM, MOMENTS
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World, joined
from scaling.training.sharding.zero import ZeroEngine, force_weight_norm
from tests.ranks import run_ranks

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra deepspeed")

TINY = NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8)
BATCH, LR = 4, 1e-3
ROUNDING = 1e-3  # of bfloat16, in a loss: different orders of sums differ by less, precisions by more
CPU = torch.device("cpu")
Held = dict[str, dict[str, tuple[int, int, np.ndarray]]]  # elements of the tensor, offset of the piece, the piece
State = dict[str, dict[str, Tensor]]  # of "weights" and each moment: the flattened tensors


@dataclass(frozen=True)
class Case:
    """How a network is trained; passes: microbatches of a step on each rank."""

    objective: str = "teacher"
    stage: int = 0
    passes: int = 1
    checkpointing: bool = False
    bf16: bool = False
    steps: int = 8


def network(seed: int = 0) -> TrigFlowNet:
    net = TrigFlowNet(TINY)
    net.reset_parameters(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.5)
    net.force_weight_norm()
    return net


def batches(step: int, rank: int, size: int, passes: int) -> Iterator[Batch]:
    """The share of one rank in the batch of a step, in microbatches."""
    generator = torch.Generator().manual_seed(step)
    x0, z = SIGMA_DATA * torch.randn(2, BATCH, 4, 8, 8, generator=generator)
    t = 0.2 + torch.rand(BATCH, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    keys = torch.randint(2**62, (BATCH,), generator=generator)
    each = BATCH // size // passes
    for n in range(rank * passes, (rank + 1) * passes):
        at = slice(n * each, (n + 1) * each)
        yield Batch(x0[at], z[at], t[at], labels[at], Dropout(0.1, keys[at]))


@cache
def teacher() -> TrigFlowNet:
    return network(seed=1).requires_grad_(False)


def loss_of(net: Any, batch: Batch, case: Case) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16) if case.bf16 else nullcontext():
        if case.objective == "teacher":
            return teacher_loss(net, batch).loss
        dxdt = teacher_velocity(teacher(), batch) if case.objective == "scd" else data_velocity(batch)
        return consistency_loss(net, batch, dxdt, 1.0, Tangent()).loss


@cache
def plain(case: Case) -> tuple[list[float], list[float], State]:
    """Losses, norms of the gradient, and weights and moments after training by one process with torch alone."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, **ADAM)
    losses, norms = [], []
    for step in range(case.steps):
        optimizer.zero_grad()
        (batch,) = batches(step, 0, 1, 1)
        loss = loss_of(net, batch, case)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm().item())
        optimizer.step()
        net.force_weight_norm()
    named = dict(net.named_parameters())
    state = {"weights": {name: p.detach().flatten() for name, p in named.items()}}
    return losses, norms, state | {m: {n: optimizer.state[p][m].flatten() for n, p in named.items()} for m in MOMENTS}


def engine_for(case: Case, world: World) -> ZeroEngine:
    net = network()
    net.unet.activation_checkpointing = case.checkpointing
    return ZeroEngine(net, world, case.stage)


def train(engine: ZeroEngine, world: World, case: Case, steps: range) -> tuple[list[float], list[float]]:
    """Losses over all ranks and norms of the gradient."""
    losses, norms = [], []
    for step in steps:
        losses.append(gradient(engine, world, case, step))
        norms.append(engine.grad_norm().item())
        engine.step(LR, 1.0)
    return losses, norms


def gradient(engine: ZeroEngine, world: World, case: Case, step: int, scale: float = 1.0) -> float:
    """Leave the scaled gradient of a step in the engine; the loss over all ranks."""
    total = torch.zeros(())
    for n, batch in enumerate(batches(step, world.rank, world.size, case.passes), 1):
        with engine.micro(n == case.passes):
            loss = loss_of(engine.net, batch, case)
            engine.backward(loss * (scale / case.passes))
        total += loss.detach() / case.passes
    return (world.total(total) / world.size).item()


def parts(engine: ZeroEngine) -> dict[str, Mapping[str, Piece]]:
    return {"weights": engine.weights(), **engine.moments()}


def held(engine: ZeroEngine) -> Held:
    """What this rank has of each tensor, to be sent to the test."""
    return {
        part: {name: (piece.numel, piece.offset, piece.local.numpy().copy()) for name, piece in named.items()}
        for part, named in parts(engine).items()
    }


def whole(ranks: Sequence[Held]) -> State:
    """The tensors of which each rank has a piece; every element is held exactly once."""
    state: State = {}
    for part in ranks[0]:
        for name, (numel, *_) in ranks[0][part].items():
            flat, times = torch.full((numel,), torch.nan), torch.zeros(numel, dtype=torch.int64)
            for _, offset, local in (rank[part][name] for rank in ranks):
                flat[offset : offset + len(local)] = torch.from_numpy(local)
                times[offset : offset + len(local)] += 1
            assert (times == 1).all(), (part, name)
            state.setdefault(part, {})[name] = flat
    return state


def fill(pieces: Mapping[str, Mapping[str, Piece]], state: State) -> None:
    for part, named in pieces.items():
        for name, piece in named.items():
            piece.local.copy_(state[part][name][piece.offset : piece.offset + len(piece.local)])


def assert_close(got: State, want: State, tolerance: float) -> None:
    """All tensors, to a part of the largest element of each."""
    for part, named in want.items():
        assert got[part].keys() == named.keys()
        for name, tensor in named.items():
            error = (got[part][name] - tensor).abs().max()
            assert error <= tolerance * tensor.abs().max() + 1e-12, (part, name, error)


def trained(cases: Sequence[Case]) -> list[tuple[list[float], list[float], Held]]:
    """One engine after the other in one process."""
    results = []
    with joined(CPU) as world:
        for case in cases:
            engine = engine_for(case, world)
            results.append((*train(engine, world, case, range(case.steps)), held(engine)))
    return results


def assert_losses(got: list[float], want: list[float], tolerance: float = 1e-6) -> None:
    """To a part of the terms of a loss, which are about one, and may cancel in it."""
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


CASES = {
    1: [Case("teacher", 1, passes=2), Case("sct", 1)],
    2: [Case("teacher", 2), Case("scd", 2, passes=2)],
    3: [Case("teacher", 3), Case("sct", 3, passes=2, checkpointing=True), Case("scd", 3)],
}


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.nightly), 2, 3])
def test_two_ranks_train_like_one_process(stage: int) -> None:
    """Losses and norms of some steps, weights and moments after them; in microbatches and recomputed blocks too."""
    results = run_ranks(2, trained, CASES[stage])
    for n, case in enumerate(CASES[stage]):
        losses, norms, state = plain(Case(case.objective))
        for rank in results:
            assert_losses(rank[n][0], losses)
            torch.testing.assert_close(rank[n][1], norms, rtol=1e-4, atol=0.0)
        assert_close(whole([rank[n][2] for rank in results]), state, 1e-3)


def test_half_precision_is_that_of_autocast() -> None:
    """DeepSpeed neither switches it off nor adds to it: bfloat16 as in one process, to what rounding gives."""
    case = Case("sct", bf16=True, steps=3)
    losses, *_ = plain(case)
    wide, *_ = plain(replace(case, bf16=False))
    assert max(abs(a - b) for a, b in zip(losses, wide, strict=True)) > ROUNDING
    for rank in run_ranks(2, trained, [replace(case, stage=2), replace(case, stage=3)]):
        for got, *_ in rank:
            assert_losses(got, losses, ROUNDING)


def skipping(stage: int) -> list[tuple[str | None, list[float]]]:
    """What is found in a step with a bad gradient, and the losses after it was discarded, or there was none."""
    found = []
    with joined(CPU) as world:
        case = Case("teacher", stage, passes=2)
        for spoilt in (True, False):
            engine = engine_for(case, world)
            train(engine, world, case, range(2))
            bad = spoil(engine, world, case) if spoilt else None
            found.append((bad, train(engine, world, case, range(2, 4))[0]))
    return found


def spoil(engine: ZeroEngine, world: World, case: Case) -> str | None:
    """Discard a good gradient, then one that is bad in the weighting, on one rank and in the first microbatch."""
    gradient(engine, world, case, 7)
    assert engine.first_nonfinite() is None
    engine.discard()
    for n, batch in enumerate(batches(8, world.rank, world.size, case.passes)):
        with engine.micro(n == 1):
            f, w = engine.net(batch.x_t, batch.t, batch.labels, with_weight=True)
            factor = torch.nan if n == 0 and world.rank == 1 else 1.0
            engine.backward(f.square().mean() + factor * w.sum())
    assert not engine.grad_norm().isfinite()
    bad = engine.first_nonfinite()
    engine.discard()
    return bad


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.nightly), 2, 3])
def test_a_discarded_gradient_leaves_nothing_behind(stage: int) -> None:
    """The losses after it are those without it, to the bit; its first bad tensor is named on every rank."""
    for (bad, got), (_, want) in run_ranks(2, skipping, stage):
        assert bad == "logvar_linear.weight"
        assert got == want


def scaled(stage: int) -> tuple[list[float], list[float]]:
    """Two losses and two norms of the gradient without a scale, and with one."""
    found: tuple[list[float], list[float]] = [], []
    with joined(CPU) as world:
        case = Case("teacher", stage)
        for numbers, scale in zip(found, (1.0, 1024.0), strict=True):
            engine = engine_for(case, world)
            for step in range(2):
                numbers.append(gradient(engine, world, case, step, scale))
                numbers.append(engine.grad_norm().item() / scale)
                engine.step(LR, scale)
    return found


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_the_loss_scale_cancels(stage: int) -> None:
    """A power of two changes no bit; the norm comes scaled."""
    for want, got in run_ranks(2, scaled, stage):
        assert got == want


def resumed(state: State, first: int, last: int) -> list[list[float]]:
    """For each stage, the losses of some steps after the state was loaded into an engine that had trained before."""
    results = []
    with joined(CPU) as world:
        for stage in (1, 2, 3):
            case = Case("sct", stage)
            engine = engine_for(case, world)
            train(engine, world, case, range(1))
            fill(parts(engine), state)
            engine.loaded(first)
            results.append(train(engine, world, case, range(first, last))[0])
    return results


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.nightly), 4])
def test_state_loads_into_another_number_of_ranks(size: int) -> None:
    """Training goes on as in the process that the weights and moments came from."""
    losses, *_ = plain(Case("sct"))
    *_, state = plain(Case("sct", steps=5))
    for rank in run_ranks(size, resumed, state, 5, 8):
        for got in rank:
            assert_losses(got, losses[5:8])


def globals_of_torch() -> tuple[bool, str]:
    """Whether torch's own functions are what they were, and what DeepSpeed has printed."""
    before = F.linear, torch.nn.Module.__call__, torch.empty, torch.Tensor.backward
    with joined(CPU) as world, redirect_stdout(io.StringIO()) as printed:
        for stage in (1, 3):
            train(engine_for(Case("teacher", stage), world), world, Case("teacher", stage), range(1))
    return before == (F.linear, torch.nn.Module.__call__, torch.empty, torch.Tensor.backward), printed.getvalue()


def test_torch_stays_as_it_is() -> None:
    """DeepSpeed can replace functions of torch process-wide, and it clips gradients and prints unless told not to."""
    assert run_ranks(1, globals_of_torch) == [(True, "")]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ParallelError, match=r"pip install 'trigscale\[deepspeed\]'"):
        ZeroEngine(network(), World(0, 1, CPU), 1)


def test_without_a_process_group() -> None:
    with pytest.raises(ParallelError, match="process group"):
        ZeroEngine(network(), World(0, 1, CPU), 1)


ROWS = [(4, 6), (1, 128), (5, 7, 3, 3), (2, 1)]


def cut_and_normalised() -> list[tuple[int, list[float]]]:
    """For each weight, the offset of this rank's piece and the piece after normalisation."""
    with joined(CPU) as world:
        pieces = []
        for shape in ROWS:
            flat = layer(shape).weight.detach().flatten()
            part = -(-len(flat) // world.size)
            offset = min(part * world.rank, len(flat))
            pieces.append(Piece(flat[offset : offset + part].clone(), offset, shape))
        force_weight_norm(pieces, world)
        return [(piece.offset, piece.local.tolist()) for piece in pieces]


def layer(shape: tuple[int, ...]) -> MPLinear:
    made = MPLinear(shape[1], shape[0], shape[2:])
    made.reset_parameters(torch.Generator().manual_seed(len(shape)))
    return made


def test_rows_that_are_cut_between_ranks_get_unit_rms() -> None:
    """Three ranks, in the middle of rows and with an empty piece, against layers that have their weights whole."""
    ranks = run_ranks(3, cut_and_normalised)
    assert ranks[2][3] == (2, [])
    for n, shape in enumerate(ROWS):
        got = [element for rank in ranks for element in rank[n][1]]
        made = layer(shape)
        made.force_weight_norm()
        torch.testing.assert_close(got, made.weight.detach().flatten().tolist(), rtol=1e-6, atol=0.0)
