"""How fast do shuffled batches of latents come, ours beside other loaders?

    python benchmarks/data.py [--peers] [--folder FOLDER] [--samples 20000] [--rounds 5]

Latents 4x64x64 float16 with labels, shuffled, in collated batches of 256, page cache warm, all loaders one after
another in each round. Rates are samples a second of processor time, of this process and those that it started: what
counts where the processor is shared, and what training loses to reading. Medians over rounds, of rates and of ratios
within a round. `--peers` takes in mosaicml-streaming, litdata and torchdata, which are installed for this alone:

    pip install mosaicml-streaming==0.10.0 litdata==0.2.76 torchdata==0.11.0 torchvision==0.28.0 -c constraints.txt

(litdata and mosaicml-streaming ask for other versions than constraints.txt: use an environment of their own.)
Prints a table and writes it to benchmarks/results/data-cpu.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks.data_contestants import BATCH, SHAPE, Contestant, contestants, make_latents
from data_pipeline.checksum import checksum
from scaling.study.machine import cpu_name

RESULT = Path(__file__).parent / "results" / "data-cpu.md"
OURS, MEMMAP = "ours, full shuffle", "numpy memmap gather"


def processor_seconds() -> float:
    """Of this process, its threads, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def rate(contestant: Contestant, seed: int, samples: int) -> tuple[float, float]:
    """Samples a second of processor time, and of the clock, over one epoch."""
    start, clock, seen = processor_seconds(), time.monotonic(), 0
    for latents, labels in contestant.epoch(seed):
        assert latents.shape[1:] == SHAPE
        assert latents.dtype == torch.float16
        seen += len(labels)
    assert seen == samples, f"{contestant.name}: {seen} of {samples} samples"
    return samples / (processor_seconds() - start), samples / (time.monotonic() - clock)


def checksum_cost(function: Callable[[memoryview], int]) -> float:
    """Microseconds of processor time a sample, over a batch in memory."""
    rows = [memoryview(row) for row in np.random.default_rng(0).integers(0, 255, (BATCH, 2 * np.prod(SHAPE)), np.uint8)]
    times = []
    for _ in range(20):
        start = time.process_time()
        for row in rows:
            function(row)
        times.append((time.process_time() - start) / BATCH * 1e6)
    return statistics.median(times)


def declare_vision() -> None:
    """The packaged torchvision is a CUDA build, whose operators a CPU build of torch does not know."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="rates of loaders of latents, side by side")
    parser.add_argument("--peers", action="store_true", help="also mosaicml-streaming, litdata and torchdata")
    parser.add_argument("--folder", type=Path, help="where the data are written, or lie from an earlier run")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.peers:
        declare_vision()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        all_of_them = contestants(make_latents(asked.samples), folder, asked.peers)
        rates: dict[str, list[tuple[float, float]]] = {each.name: [] for each in all_of_them}
        for each in all_of_them:
            next(each.epoch(0))  # imports, and what else a first batch alone takes
        for seed in range(1, asked.rounds + 1):
            for each in all_of_them:
                found = rate(each, seed, asked.samples)
                rates[each.name].append(found)
                print(f"{seed} {each.name}: {found[0]:,.0f}", file=sys.stderr, flush=True)
            RESULT.write_text(table(rates, asked.samples))
    print(RESULT.read_text())


def table(rates: dict[str, list[tuple[float, float]]], samples: int) -> str:
    """Markdown."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    lines = [
        f"{cpu_name()}, {len(os.sched_getaffinity(0))} CPUs, torch {torch.__version__}, {now};",
        f"{samples:,} latents 4x64x64 float16",
        f"with labels, shuffled, batches of 256, warm page cache; rounds: {len(rates[OURS])}; other programs beside it",
        "",
        "| loader | samples / processor-second | of ours | of the memmap's | samples / s by the clock |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in rates.items():
        processor, clock = (statistics.median(each[n] for each in found) for n in (0, 1))
        ratios = [
            statistics.median(each[0] / base[0] for each, base in zip(found, rates[other], strict=True))
            for other in (OURS, MEMMAP)
        ]
        lines.append(f"| {name} | {processor:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {clock:,.0f} |")
    costs = {"XXH3": checksum_cost(checksum), "CRC-32 of zlib": checksum_cost(zlib.crc32)}
    lines += ["", *(f"{name}: {cost:.1f} us a sample of 32 KiB" for name, cost in costs.items()), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
