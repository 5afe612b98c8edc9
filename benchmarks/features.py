"""Images a second through Inception, with the same random weights: clean-fid's way, torch-fidelity's loop, and ours.

    PEERS=/folder/with/peers python benchmarks/features.py [--images 32] [--rounds 3]

Each way takes the same uint8 images of 64 x 64 to 2048 features, its resize included, on one thread; ways take turns,
and seconds are of the processor, for the machine may be busy. clean-fid's way: its resizer, an image at a time, then
the plain network on a batch. The last table: the most memory of a process that streams N and 4 N images.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.frechet import declare_operators
from scaling.evaluation.extract import moments_of
from scaling.evaluation.frechet import frechet_distance
from scaling.evaluation.moments import feature_statistics
from scaling.evaluation.spaces.inception import InceptionSpace
from scaling.evaluation.spaces.inception_network import random_network
from scaling.evaluation.spaces.small import fashion_space

Way = Callable[[np.ndarray], np.ndarray]
SIDE = 64


def ways(weights: Path) -> dict[str, Way]:
    """Every way from images uint8 [N, 64, 64, 3] to features [N, 2048]."""
    found: dict[str, Way] = {}
    ours, bf16 = (InceptionSpace(weights, "clean", "cpu", bf16=half) for half in (False, True))
    found["ours, float32"] = lambda images: ours.outputs(images).features
    found["ours, bfloat16"] = lambda images: bf16.outputs(images).features
    sys.path += [path for path in os.environ.get("PEERS", "").split(os.pathsep) if path]
    declare_operators()
    try:
        from cleanfid.resize import build_resizer  # pyright: ignore[reportMissingImports]

        found["clean-fid's resizer, plain network"] = _plain(build_resizer("clean"), random_network(0))
    except ImportError as error:
        print(f"without clean-fid ({error})", file=sys.stderr)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )

        network = FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=str(weights)).eval()
        found["torch-fidelity (legacy-tf)"] = lambda images: network(torch.from_numpy(images).permute(0, 3, 1, 2))[
            0
        ].numpy()
    except ImportError as error:
        print(f"without torch-fidelity ({error})", file=sys.stderr)
    return found


def _plain(resizer: Callable[[np.ndarray], np.ndarray], network: torch.nn.Module) -> Way:
    def features(images: np.ndarray) -> np.ndarray:
        resized = np.stack([resizer(image) for image in images])
        x = torch.from_numpy(resized).permute(0, 3, 1, 2) / 127.5 - 1
        return network(x).numpy()

    return features


@dataclass(frozen=True)
class Made:
    """`count` random images, one batch at a time."""

    count: int
    shape: tuple[int, int, int] = (16, 16, 1)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C]."""
        generator = np.random.default_rng(0)
        for start in range(0, self.count, size):
            yield generator.integers(256, size=(min(size, self.count - start), *self.shape), dtype=np.uint8)


def peak(count: int) -> float:
    """MiB of a fresh process that makes statistics of so many images."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (count,))


def _peak(count: int) -> float:
    torch.set_num_threads(1)
    moments_of(fashion_space("cpu"), Made(count))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(256, size=(arguments.images, SIDE, SIDE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.pth"
        torch.save(random_network(0).state_dict(), weights)
        every = ways(weights)
        made = {name: way(images) for name, way in every.items()}
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for _ in range(arguments.rounds):
            for name, way in every.items():
                start = time.process_time()
                way(images)
                seconds[name].append(time.process_time() - start)
    print(f"{arguments.images} images of {SIDE}x{SIDE}, median of {arguments.rounds} rounds; {platform.machine()}, "
          f"torch {torch.__version__}, one thread, processor seconds, {date.today()}\n")  # fmt: skip
    best = min(statistics.median(each) for name, each in seconds.items() if not name.startswith("ours")) \
        if len(seconds) > 2 else float("nan")  # fmt: skip
    print("| way | images a second | times the better peer | largest difference from ours |\n|---|---|---|---|")
    for name, each in seconds.items():
        median = statistics.median(each)
        apart = np.abs(made[name] - made["ours, float32"]).max() / np.abs(made["ours, float32"]).max()
        print(f"| {name} | {arguments.images / median:.2f} | {best / median:.2f} | {apart:.1e} |")
    half, whole = (feature_statistics(made[name][:, :16]) for name in ("ours, bfloat16", "ours, float32"))
    apart = frechet_distance(*half, *whole)
    print(f"\nFrechet distance of bfloat16 to float32 features (16): {apart:.2e}; trace {np.trace(whole[1]):.3g}\n")
    print("| images streamed | most memory, MiB |\n|---|---|")
    for count in (5000, 20_000):
        print(f"| {count:,} | {peak(count):.0f} |")


if __name__ == "__main__":
    main()
