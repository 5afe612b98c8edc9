"""How many processor cores does it take to feed eight GPUs with 5,000 latents a second?

    python benchmarks/data_feed.py

What the host does for each sample of size S's training, in processor time over all threads of one rank: reading,
checking and handing over (`Feed`), random words of the noise (`normals` without what the GPU makes of them), labels and
times. Latents 4x64x64 float16, once plain and once as mean and standard deviation (8 channels), a rank's share of 256,
page cache warm. Medians of 5 rounds. Prints a table and
writes it to benchmarks/results/data-feed-cpu.md.
"""

from __future__ import annotations

import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from data_pipeline.opening import order_of
from data_pipeline.reader import LatentReader
from data_pipeline.stream import SampleStream
from data_pipeline.writer import write_shards
from scaling.config.sections import Loading
from scaling.run.randomness import WORDS_PER_COUNT, keys
from scaling.study.machine import cpu_name
from scaling.training.feed import Feed

RESULT = Path(__file__).parent / "results" / "data-feed-cpu.md"
SAMPLES, SHARE, STEPS, ROUNDS = 2000, 256, 8, 5
WANTED = 5000  # samples a second


def make(folder: Path, channels: int) -> LatentReader:
    """Shards of random latents."""
    generator = np.random.default_rng(0)
    unique = generator.standard_normal((100, channels, 64, 64), np.float32).astype(np.float16)
    samples = ((unique[n % 100], n % 1000) for n in range(SAMPLES))
    write_shards(samples, folder, dataset="b", encoder="none", num_classes=1000)
    return LatentReader(folder)


def microseconds(action: Callable[[int], object]) -> float:
    """Processor time a sample, over steps of a rank's share."""
    times = []
    for n in range(ROUNDS + 1):
        start = time.process_time()
        for step in range(STEPS):
            action((n * STEPS + step) * SHARE)
        times.append((time.process_time() - start) / (STEPS * SHARE) * 1e6)
    return statistics.median(times[1:])


def words(first: int) -> object:
    """What the host draws for the noise of a share: the rest of `normals` runs where the noise is wanted."""
    counts = 4 * 64 * 64 // 2 // WORDS_PER_COUNT
    generator = np.random.Philox(key=[1, 0], counter=[first * counts, 0, 0, 0])
    drawn = generator.random_raw(SHARE * counts * WORDS_PER_COUNT).view(np.uint32)
    return torch.from_numpy(drawn.astype(np.float32)), keys(0, "latent", first, SHARE)


def feed_of(reader: LatentReader, workers: int) -> Feed:
    """As training has it."""
    stream = SampleStream(reader, order_of(reader.manifest, 0, 0, 0))
    return Feed(stream, SHARE, lambda first: first + SHARE, Loading(workers=workers), torch.device("cpu"))


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    noise = microseconds(words)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, channels in (("latents", 4), ("mean and standard deviation", 8)):
            reader = make(Path(scratch) / str(channels), channels)
            for workers in (0, 1):
                feed = feed_of(reader, workers)
                cost = microseconds(feed.get)
                feed.close()
                cores = (cost + noise) * 1e-6 * WANTED
                rows.append(
                    f"| {name} | {workers} | {cost:.1f} | {noise:.1f} | {cores:.2f} | {2 / cores * WANTED:,.0f} |"
                )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = "\n".join(
        [
            f"{cpu_name()}, {len(os.sched_getaffinity(0))} CPUs, torch {torch.__version__}, {now}",
            "other programs ran beside it; processor time",
            "",
            "| shards of | data.workers | reading, us a sample | random words, us | cores for 5,000 samples / s "
            "| samples / s of two cores |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
