"""What do many samples cost: to open, in memory, and in how well windows mix them?

    python benchmarks/data_growth.py

Opening and memory: sets of 10^4 to 10^7 samples of one float16 each in shards of 1,000 (1.28 million in 1,280), whose
indices are real and whose shards are empty space. Each is opened in a process of its own, which then makes an epoch's
order and reads a batch of 256; memory is what it holds at most above a process that has opened 1,000 samples.

Mixing: batches of 256 from 1,000 classes of 1,280 samples that lie sorted by class, the worst case. Spread: chi-square
of the classes in a batch over its expectation when every sample is drawn by itself. Classes: those in a batch.

Prints tables and writes them to benchmarks/results/data-growth.md. A minute.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from data_pipeline.checksum import checksum
from data_pipeline.manifest import FORMAT, INDEX_DTYPE, Manifest, ShardInfo, shard_name
from data_pipeline.order import Order, SampleOrder, WindowOrder, run_bounds
from data_pipeline.reader import LatentReader
from data_pipeline.stream import SampleStream

RESULT = Path(__file__).parent / "results" / "data-growth.md"
SHARD, SLOT, BATCH = 1000, 1536, 256
CLASSES, OF_CLASS = 1000, 1280
SIZES = (1_000, 10_000, 100_000, 1_280_000, 10_000_000)


def fabricate(folder: Path, samples: int) -> None:
    """A folder as `write_shards` leaves it, but for the shards, which are holes of the right size."""
    folder.mkdir()
    index = np.zeros(SHARD, INDEX_DTYPE)
    index["offset"] = np.arange(SHARD) * SLOT
    index["label"] = np.arange(SHARD) % CLASSES
    index["checksum"] = checksum(bytes(2))
    shards = []
    for number in range(samples // SHARD):
        name = shard_name(number)
        with (folder / name).open("wb") as stream:
            stream.truncate(SHARD * SLOT)
        path = folder / (name.removesuffix(".tar") + ".index.npy")
        np.save(path, index)
        digest = sha256(path.read_bytes()).hexdigest()
        shards.append(ShardInfo(name, SHARD * SLOT, SHARD, "0" * 64, digest))
    Manifest(FORMAT, "b", "none", (1, 1, 1), "float16", CLASSES, samples, tuple(shards), "0" * 64).save(folder)


def opened(folder: Path) -> None:
    """Open, read a batch, and print seconds and the most memory as JSON."""
    start, clock = time.process_time(), time.monotonic()
    reader = LatentReader(folder)
    open_seconds, open_clock = time.process_time() - start, time.monotonic() - clock
    start = time.process_time()
    SampleStream(reader, SampleOrder(len(reader), 0)).read(0, BATCH)
    order_seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"open": open_seconds, "clock": open_clock, "order": order_seconds, "peak": peak}))


def growth() -> list[str]:
    """Rows of the table of sizes."""
    rows, base = [], 0
    for samples in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "set"
            fabricate(folder, samples)
            done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        base = base or found["peak"]
        per_sample = (found["peak"] - base) / samples
        held = f"{per_sample:.1f}" if samples > SIZES[0] else ""
        seconds = f"{found['open']:.2f} | {found['clock']:.2f} | {found['order']:.2f}"
        rows.append(f"| {samples:,} | {samples // SHARD:,} | {seconds} | {held} |")
    return rows


def spread(order: Order, batches: int = 200) -> tuple[float, float]:
    """Chi-square of classes over its expectation, and classes in a batch, means over batches all over an epoch."""
    ratios, present = [], []
    for first in np.linspace(0, order.samples - BATCH, batches).astype(int).tolist():
        counts = np.bincount(order.indices(first, BATCH) // OF_CLASS, minlength=CLASSES)
        expected = BATCH / CLASSES
        ratios.append(float(((counts - expected) ** 2 / expected).sum()) / (CLASSES - 1))
        present.append(int((counts > 0).sum()))
    return float(np.mean(ratios)), float(np.mean(present))


def mixing() -> list[str]:
    """Rows of the table of orders."""
    shards = np.full(CLASSES * OF_CLASS // SHARD, SHARD)
    rows = []
    for name, blocks, block in (
        ("full shuffle", 0, 0),
        ("1,024 runs of 64 samples", 1024, 64),
        ("256 runs of 64", 256, 64),
        ("64 runs of 64", 64, 64),
        ("256 runs of 16", 256, 16),
        ("64 whole shards", 64, 0),
        ("16 whole shards", 16, 0),
    ):
        order = WindowOrder(run_bounds(shards, block), blocks, 0) if blocks else SampleOrder(CLASSES * OF_CLASS, 0)
        ratio, present = spread(order)
        window = blocks * (block or SHARD) * 32768 / 2**20 if blocks else CLASSES * OF_CLASS * 32768 / 2**20
        rows.append(f"| {name} | {window:,.0f} | {ratio:.2f} | {present:.0f} |")
    return rows


def main() -> None:
    """Measure, print, write."""
    from scaling.study.machine import cpu_name  # brings torch, which the processes that are measured do without

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = "\n".join(
        [
            f"{cpu_name()}, {len(os.sched_getaffinity(0))} CPUs, {now}; other programs ran beside it",
            "",
            "| samples | shards | opened in, processor s | s by the clock | order and first batch, processor s "
            "| bytes a sample |",
            "| --- | --- | --- | --- | --- | --- |",
            *growth(),
            "",
            "| order | MiB of 32 KiB samples in a window | spread of classes in a batch | classes in a batch |",
            "| --- | --- | --- | --- |",
            *mixing(),
            "",
        ]
    )
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    opened(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
