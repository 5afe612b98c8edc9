"""How fast is `data verify` beside SHA-256 alone and beside reading the files?

    PYTHONPATH=. python benchmarks/verify.py [--mib 512] [--pairs 3]

A set of latents of 512x512 images (64 KiB each, 1,000 a shard) in a temporary folder, in the page cache. By wall time
and by processor time of all processes, in turns; the median of each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch

from data_pipeline.content import hash_content
from data_pipeline.files import sha256_file
from data_pipeline.manifest import Manifest
from data_pipeline.verify import verify
from data_pipeline.writer import write_shards
from scaling.study.machine import machine, versions

SHAPE, BYTES = (8, 64, 64), 65536


def latents(count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Random moments, the same noise shifted, so that no two are equal."""
    noise = np.random.Generator(np.random.Philox(0)).standard_normal(SHAPE).astype(np.float16)
    for number in range(count):
        yield noise + np.float16(number % 512), number % 1000


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall, and of processor time with that of processes that have ended."""
    before, wall = os.times(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - wall, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        count = options.mib * 2**20 // BYTES
        write_shards(latents(count), folder, dataset="d", encoder="e", num_classes=1000, samples_per_shard=1000)
        manifest = Manifest.load(folder)
        tars = [folder / shard.name for shard in manifest.shards]
        ways: dict[str, Callable[[], object]] = {
            "read": lambda: [path.read_bytes() for path in tars],
            "SHA-256 of the files": lambda: [sha256_file(path) for path in tars],
            "content hash": lambda: hash_content(folder, manifest),
            "verify, 1 process": lambda: verify(folder, 1),
            f"verify, {cores} processes": lambda: verify(folder, cores),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.pairs):
            for name, work in ways.items():
                times[name].append(timed(work))
        size = sum(path.stat().st_size for path in tars) / 2**20
        print(f"| {size:.0f} MiB in {len(tars)} shards | MiB/s, wall | MiB a processor second |\n|---|---|---|")
        for name, pairs in times.items():
            wall, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"| {name} | {size / wall:,.0f} | {size / processor:,.0f} |")
    facts = machine(torch.device("cpu"))
    print(f"\n{facts['cpu']}, {facts['cores']} cores, load {os.getloadavg()[0]:.0f}; Python {versions()['python']}; "
          f"{date.today()}")  # fmt: skip


if __name__ == "__main__":
    main()
