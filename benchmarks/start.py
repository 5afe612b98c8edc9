"""What does a rank's memory grow by until a run's networks are there, trained from weights at rest and distilled?

    python benchmarks/start.py FOLDER [--size SIZE] [--ranks N]

Writes random weights of img512's SIZE (S: 0.28 billion parameters, 1.1 GB in float32) as a release into FOLDER, and
takes them away again. In each rank, a process of its own that imports first: the most that its resident set grew by
until `build_engine` had made the network in training from the release, Adam's moments of zero included, and until
`freeze` had made the one that is distilled; over what the rank holds of each in the end, plus the largest tensor. DDP,
where a rank holds all, is the measure of what every rank took before weights were read share by share.

Prints a table and writes it to benchmarks/results/start-cpu.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.load import GB, emptied, note, ranks, resident, stored_bytes, write
from models import read_release
from models.sharded import local_runs
from scaling.config.families import load_family
from scaling.config.sections import Launch
from scaling.training.origin import AtRest
from scaling.training.sharding.engine import Engine
from scaling.training.sharding.parallel import build_engine, freeze
from scaling.training.sharding.world import World, joined
from scaling.training.sharding.zero import ZeroEngine
from scaling.training.start import First

RESULT = Path(__file__).parent / "results" / "start-cpu.md"
STRATEGIES = ("ddp", "fsdp2", "zero3")


def grown(make: Callable[[], Any]) -> tuple[Any, int]:
    """What it makes, and by how many bytes the resident set grew at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the most since now
    before, _ = resident()
    made = make()
    return made, resident()[1] - before


def rank(folder: Path, strategy: Any) -> dict[str, int]:
    """One rank's part."""
    torch.set_num_threads(1)
    launch = Launch(strategy=strategy)
    with joined(torch.device("cpu")) as world:
        _once(launch, world)
        origin = AtRest(read_release(folder / "release"))
        world.barrier()
        engine, trained = grown(lambda: build_engine(First(origin.config, 0, origin, 1), launch, world))
        holds = held_bytes(engine)
        world.barrier()
        net, frozen = grown(lambda: freeze(origin, launch, world))
        share = sum(run.local.nbytes for run in local_runs(net).values())
        world.barrier()
    return {"trained": trained, "holds": holds, "frozen": frozen, "share": share}


def held_bytes(engine: Engine) -> int:
    """Bytes of all storages that a rank keeps: weights, moments, and DeepSpeed's own copy and gradients of ZeRO-3."""
    pieces = [*engine.weights().values(), *(p for held in engine.moments().values() for p in held.values())]
    tensors = [piece.local for piece in pieces]
    if isinstance(engine, ZeroEngine):
        tensors += [*engine.zero.fp16_partitioned_groups_flat, engine.zero.grad_partitions_flat_buffer]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def _once(launch: Launch, world: World) -> None:
    """What is imported and set up once is not weights."""
    small = First(load_family("nano").size("xs"), 0)
    build_engine(small, launch, world)


def table(folder: Path, size: str, count: int) -> list[str]:
    """Lines of a table: of each strategy the rank whose memory grew most."""
    stored = read_release(folder / "release").tensors.values()
    largest = max(stored_bytes(each.shape) for each in stored)
    lines = ["| strategy | network | holds GB | grew by GB | (grew - largest tensor) / holds |", "| --- " * 5 + "|"]
    for strategy in STRATEGIES:
        # Without the variable malloc keeps smaller tensors that were freed.
        found = ranks(folder, size, strategy, count, __file__, MALLOC_MMAP_THRESHOLD_="1048576")
        for network, grew, holds in (("in training", "trained", "holds"), ("distilled", "frozen", "share")):
            worst = max(found, key=lambda one, grew=grew, holds=holds: one[grew] - one[holds])
            ratio = (worst[grew] - largest) / worst[holds]
            lines.append(f"| {strategy} | {network} | {worst[holds] / GB:.3f} | {worst[grew] / GB:.3f} | {ratio:.2f} |")
    whole = sum(stored_bytes(each.shape) for each in stored)
    told = f"{count} ranks; the whole weights are {whole / GB:.3f} GB, the largest tensor {largest / GB:.3f}."
    return [*lines, "", told]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="s")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--run", choices=STRATEGIES)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.run:
        print(json.dumps(rank(folder, options.run)))
        return
    with emptied(folder):
        write(folder, options.size)
        lines = table(folder, options.size, options.ranks)
    note(RESULT, options.size, lines)


if __name__ == "__main__":
    main()
