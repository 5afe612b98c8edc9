"""How long does a training step take, by size, method and strategy, beside a step of the teacher?

    python benchmarks/step_time.py                                        # this CPU, nano xs to l
    python benchmarks/step_time.py --ranks 2 --strategy ddp,fsdp2,zero1   # two gloo ranks
    python benchmarks/step_time.py --device cuda --compile no,yes         # img512 S to XXL, bf16 and fp16

Real trainers (batches, objective, engine, averages) on synthetic latents; with several ranks the script starts them
itself, unless torchrun has. For every size and method:

    ms         median of the steps, and the least; on a CPU the methods take turns, so that load meets all alike
    / teacher  median of the ratios to the teacher's step of the same turn (on a GPU: of the medians)
    images/s   over all ranks
    peak MiB   on a GPU the most that was allocated; on a CPU what a step allocates above the state that stays
    MFU        model FLOPs, 2 per multiply-add: a forward pass 1, its tangent 1, its backward pass 2, the guided teacher
               2 forwards; recomputed passes are not counted. In percent of all ranks' measured rate of a square matrix
               product in the precision of the run.

What does not fit says so and the others go on; after --seconds one process begins nothing more. Prints a table and
writes it, and every number, to benchmarks/results/step-time-DEVICE.{md,json}.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.step_runs import CASES, Setting, make_trainer, matrix_flops, peak_bytes, set_precision, timed
from models.network import NetworkConfig
from scaling.config.families import load_family
from scaling.plan.costs import count, step_forwards
from scaling.study.machine import machine
from scaling.training.origin import InMemory, Origin
from scaling.training.sharding.world import World, joined
from scaling.training.start import First
from scaling.training.trainer import Trainer
from slurm.ranks import run_ranks

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
COLUMNS = ("strategy", "size", "precision", "case", "ms", "least ms", "/ teacher", "images/s", "peak MiB", "MFU %")


def measure(setting: Setting, world: World, until: float) -> list[dict[str, Any]]:
    """A record for each precision and method; nothing is begun after the monotonic time `until`.

    On a GPU one trainer lives at a time: four may not fit.
    """
    network = load_family(setting.family).size(setting.size)
    origin = InMemory(network, First(network, 0).whole().state_dict())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for cases in [[case] for case in CASES] if world.device.type == "cuda" else [[*CASES]]:
        failure = "not begun: the time was over"
        if time.monotonic() < until:
            try:
                found |= _times(cases, origin, setting, world)
                failure = ""
            except torch.OutOfMemoryError:
                failure = "out of memory"
        if failure:
            found |= {(precision, case): {"failure": failure} for precision in setting.precisions for case in cases}
        release()  # outside the handler, whose traceback holds the trainers
    return [_record(found, *key, setting, network, world) for key in found]


def _times(cases: list[str], origin: Origin, setting: Setting, world: World) -> dict[tuple[str, str], dict[str, Any]]:
    """By precision and method: the times of all steps, and the peak memory."""
    trainers = {case: make_trainer(case, origin, setting, world) for case in cases}
    found = {}
    for precision in setting.precisions:
        for case, record in _side_by_side(trainers, precision, setting, world).items():
            found[precision, case] = record
    return found


def _side_by_side(trainers: dict[str, Trainer], precision: str, setting: Setting, world: World) -> dict[str, Any]:
    """Times of every step, in turns, and the peak memory of each trainer."""
    records: dict[str, Any] = {}
    for case, trainer in trainers.items():
        set_precision(trainer, precision)
        for _ in range(2):  # what is made once: kernels, compiled code, plans of collectives
            trainer.train_step()
        records[case] = {"times": [], "peak": peak_bytes(trainer)}
    for _ in range(setting.steps):
        for case, trainer in trainers.items():
            records[case]["times"].append(timed(trainer.train_step, world))
    return records


def _record(
    found: dict[tuple[str, str], dict[str, Any]],
    precision: str,
    case: str,
    setting: Setting,
    network: NetworkConfig,
    world: World,
) -> dict[str, Any]:
    name, own, teacher = (
        _named(setting, precision, case, world.size),
        found[precision, case],
        found[precision, "teacher"],
    )
    if "failure" in own:
        return {**name, **own}
    times, median = own["times"], statistics.median(own["times"])
    if world.device.type == "cpu":
        ratio = statistics.median(a / b for a, b in zip(times, teacher["times"], strict=True))
    else:
        ratio = median / statistics.median(teacher["times"])
    method, guided = CASES[case]
    passes = step_forwards(method, guided=guided, checkpointing=False)
    flops = 2 * count(replace(network, guidance=guided)).forward_macs * passes * setting.batch
    return {
        **name,
        "ms": median,
        "least ms": min(times),
        "/ teacher": ratio,
        "images/s": 1e3 * setting.batch * world.size / median,
        "peak MiB": own["peak"] / MIB,
        "MFU %": 100 * flops / (median / 1e3) / matrix_flops(world.device, precision),
        "times ms": times,
    }


def _named(setting: Setting, precision: str, case: str, ranks: int) -> dict[str, Any]:
    strategy = "one process" if ranks == 1 else f"{setting.strategy} x{ranks}"
    extra = ", compiled" * setting.compile + ", checkpointing" * setting.checkpointing
    size = f"{setting.family} {setting.size}, batch {setting.batch}"
    return {"strategy": strategy + extra, "size": size, "precision": precision, "case": case}


def release() -> None:
    """Give back what dead trainers held, compiled code included."""
    gc.collect()
    torch.compiler.reset()
    torch.cuda.empty_cache()


def in_ranks(setting: Setting, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The records of one setting from ranks of its own, so that what ends them ends nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        command = [sys.executable, __file__, "--device", arguments.device, "--one", json.dumps(asdict(setting))]
        code = run_ranks([*command, "--into", str(path)], arguments.ranks, os.environ, lambda: False)
        if code == 0:
            return json.loads(path.read_text())
    name = _named(setting, ",".join(setting.precisions), "all", arguments.ranks)
    return [{**name, "failure": f"the ranks ended with code {code}"}]


def as_rank(arguments: argparse.Namespace, settings: list[Setting]) -> None:
    """One rank's part; rank 0 writes the records."""
    with joined(torch.device(arguments.device)) as world:
        records = [record for setting in settings for record in measure(setting, world, float("inf"))]
        if world.leads and arguments.into:
            Path(arguments.into).write_text(json.dumps(records))
        elif world.leads:
            print(write(records, arguments))


def table(records: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    for record in records:
        cells = [record[name] for name in COLUMNS[:4]]
        if "failure" in record:
            cells += [record["failure"], *[""] * 5]
        else:
            digits = (1, 1, 2, 0, 1, 0)
            cells += [f"{record[name]:.{n}f}" for name, n in zip(COLUMNS[4:], digits, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(records: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Write the table and all numbers; the table."""
    found = machine(torch.device(arguments.device))
    name = found["device"] if arguments.device == "cuda" else f"{found['cpu']}, {found['cores']} CPUs"
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    head = f"{name}, torch {torch.__version__}, {when}"
    text = f"{head}\n\n{table(records)}\n"
    stem = RESULTS / f"step-time-{arguments.name or arguments.device}"
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(json.dumps({"machine": head, "records": records}, indent=1) + "\n")
    return text


def settings_of(arguments: argparse.Namespace) -> Iterator[Setting]:
    """All settings, what matters most first: sizes in their order, then strategies, then compiled."""
    gpu = arguments.device == "cuda"
    family = arguments.family or ("img512" if gpu else "nano")
    sizes = arguments.sizes or (["s", "m", "l", "xl", "xxl"] if gpu else ["xs", "s", "m", "l"])
    precisions = tuple(arguments.precision or (["bf16", "fp16"] if gpu else ["fp32"]))
    batch, steps = arguments.batch or (8 if gpu else 64), arguments.steps or (6 if gpu else 40)
    for compiled, strategy, size in product(arguments.compile, arguments.strategy, sizes):
        yield Setting(
            family, size, strategy, compiled == "yes", arguments.activation_checkpointing, batch, precisions, steps
        )


def parse() -> argparse.Namespace:
    """The command line; lists are separated by commas."""
    listed = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--family", help="a family of configs/family")
    parser.add_argument("--sizes", type=listed)
    parser.add_argument("--precision", type=listed, help="fp32, bf16, fp16")
    parser.add_argument("--strategy", type=listed, default=["ddp"])
    parser.add_argument("--ranks", type=int, default=1, help="processes on this machine")
    parser.add_argument("--batch", type=int, help="images a pass and rank")
    parser.add_argument("--steps", type=int, help="steps that are timed, of each method")
    parser.add_argument("--compile", type=listed, default=["no"], help="no, yes or no,yes")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing more after so long")
    parser.add_argument("--name", help="of the files of results, instead of the device")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a setting, between the script and its ranks
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every setting, print and write the results."""
    arguments = parse()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    if "RANK" in os.environ:
        content = json.loads(arguments.one) if arguments.one else None
        as_rank(arguments, [Setting(**content)] if content else [*settings_of(arguments)])
        return
    until, records, text = time.monotonic() + arguments.seconds, [], ""
    for setting in settings_of(arguments):
        if arguments.ranks > 1:
            records += in_ranks(setting, arguments)
        else:
            records += measure(setting, World(0, 1, torch.device(arguments.device)), until)
        text = write(records, arguments)  # each time: what ends this ends not what was measured
    print(text)


if __name__ == "__main__":
    main()
