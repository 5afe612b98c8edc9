"""For how long does a checkpoint keep the training loop?

    python benchmarks/checkpoint_stall.py [FOLDER]

A teacher of nano l in training (weights, buffers, two averages, two moments, float32) on 1 rank, and on 2 gloo ranks
that replicate it, saved after every step into FOLDER (default: here; what counts is its disk). Medians in milliseconds:

    stall   what the loop waits in Checkpointer.save, which copies and returns; on the slower rank
    plain   rank 0 writes all in one safetensors file and flushes it while the loop waits: no copy, hash or manifest
    whole   Checkpointer.save and then wait
    thread  what the thread that writes needs of the processor (training may wait for some of it), on the busier rank

Prints a table and writes it to benchmarks/results/checkpoint-stall-cpu.md. Half a minute.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.step_runs import Setting, make_trainer
from scaling.config.families import load_family
from scaling.study.machine import machine
from scaling.training.checkpoints.checkpoint import Checkpointer
from scaling.training.origin import InMemory
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World, joined
from scaling.training.start import First
from scaling.training.trainer import Trainer
from slurm.ranks import run_ranks

RUN = Setting("nano", "l", "ddp", False, False, batch=8, precisions=("fp32",), steps=0)
REPEATS, WARM_UP = 30, 3
RESULT = Path(__file__).parent / "results" / "checkpoint-stall-cpu.md"
HEADER = "| ranks | MB | stall ms | plain ms | whole ms | thread ms | stall / plain | stall / whole |"


def trainer_of(world: World) -> Trainer:
    """The run, after its first step."""
    network = load_family(RUN.family).size(RUN.size)
    trainer = make_trainer("teacher", InMemory(network, First(network, 0).whole().state_dict()), RUN, world)
    trainer.train_step()
    return trainer


def plain_save(path: Path, pieces: Mapping[str, Piece]) -> None:
    """What one would do without a checkpointer."""
    data = safetensors.torch.save({name: piece.local.view(piece.shape) for name, piece in pieces.items()})
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def timed(action: Callable[[], None]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


def measure(folder: Path, world: World) -> dict[str, float]:
    """The megabytes, and medians over REPEATS checkpoints; of the slower rank in each."""
    trainer, checkpointer = trainer_of(world), Checkpointer(folder / "checkpoints", world, keep=2)
    times: dict[str, list[float]] = {"stall": [], "whole": [], "plain": [], "thread": []}
    for _ in range(WARM_UP + REPEATS):
        trainer.train_step()
        before = checkpointer._thread.submit(time.thread_time).result()
        world.barrier()
        stall = timed(lambda: checkpointer.save(trainer.step, trainer.pieces(), trainer.metadata()))
        whole = stall + timed(checkpointer.wait)
        thread = 1e3 * (checkpointer._thread.submit(time.thread_time).result() - before)
        world.barrier()
        plain = timed(lambda: plain_save(folder / "plain", trainer.pieces())) if world.leads else 0.0
        for name, found in {"stall": stall, "whole": whole, "plain": plain, "thread": thread}.items():
            times[name].append(slowest(found, world))
    checkpointer.close()
    size = sum(piece.local.nbytes for piece in trainer.pieces().values()) / 1e6
    return {"MB": size, **{name: statistics.median(found[WARM_UP:]) for name, found in times.items()}}


def slowest(milliseconds: float, world: World) -> float:
    """The largest over the ranks."""
    found = torch.tensor(milliseconds, dtype=torch.float64)
    if world.size > 1:
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.item()


def rank(folder: Path) -> None:
    """One rank's part; rank 0 leaves the row in FOLDER/row.json."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as world:
        found = measure(folder, world)
        if world.leads:
            (folder / "row.json").write_text(json.dumps(found))


def row(size: int, beside: Path) -> str:
    """The table's row for a number of ranks."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".checkpoint-stall-") as folder:
        command = (sys.executable, __file__, folder, "rank")
        code = run_ranks(command, size, {**os.environ, "OMP_NUM_THREADS": "1"}, lambda: False)
        if code:
            raise RuntimeError(f"{size} ranks ended with code {code}")
        found = json.loads((Path(folder) / "row.json").read_text())
    cells = [f"{found[name]:.2f}" for name in ("stall", "plain", "whole", "thread")]
    shares = [f"{found['stall'] / found[name]:.1%}" for name in ("plain", "whole")]
    return "| " + " | ".join([str(size), f"{found['MB']:.1f}", *cells, *shares]) + " |"


def main() -> None:
    """Measure, print and write the table."""
    if sys.argv[2:] == ["rank"]:
        return rank(Path(sys.argv[1]))
    beside = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    here, now = machine(torch.device("cpu")), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    lines = [f"{here['cpu']}, {here['cores']} CPUs, torch {torch.__version__}, {now}; one thread a rank", ""]
    lines += [HEADER, "| --- " * HEADER.count(" |") + "|", *(row(size, beside) for size in (1, 2))]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    RESULT.write_text(text)
    return None


if __name__ == "__main__":
    main()
