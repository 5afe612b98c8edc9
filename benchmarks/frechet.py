"""The Frechet distance at 2048 features: clean-fid's, torchmetrics', and ours; and what its error costs.

    PEERS=/folder/with/clean-fid python benchmarks/frechet.py [--features 2048] [--samples 50000]

Peers are installed apart (`pip install --target DIR --no-deps clean-fid==0.1.35 torchmetrics==1.9.0
lightning-utilities`); without them their rows are left out. Seconds are of the processor, one thread, for the machine
may be busy; statistics to distance, and features to statistics apart. The features are those of two sets with
eigenvalues falling as 1 / i.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import torch

from scaling.evaluation.expansion import expand
from scaling.evaluation.frechet import Reference
from scaling.evaluation.moments import feature_statistics

RESAMPLES = 1000


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and its seconds of the processor."""
    start = time.process_time()
    return work(), time.process_time() - start


def draw(samples: int, size: int, seed: int, scale: float) -> np.ndarray:
    """Features float32 [samples, size], mixed so that no axis is special."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, size + 1) ** -0.5
    axes = np.linalg.qr(np.random.default_rng(99).standard_normal((size, size)))[0].astype(np.float32)
    made = generator.standard_normal((samples, size), np.float32) * (spectrum * scale).astype(np.float32)
    return made @ axes


def peers() -> dict[str, Callable[..., float]]:
    """The functions of other packages that are there, from statistics to distance."""
    sys.path += [path for path in os.environ.get("PEERS", "").split(os.pathsep) if path]
    found: dict[str, Callable[..., float]] = {}
    declare_operators()
    try:
        from cleanfid.fid import frechet_distance  # pyright: ignore[reportMissingImports]

        found["clean-fid 0.1.35 (scipy sqrtm)"] = frechet_distance
    except ImportError as error:
        print(f"without clean-fid ({error})", file=sys.stderr)
    try:
        from torchmetrics.image.fid import _compute_fid  # pyright: ignore[reportMissingImports]

        def torchmetrics(mean1: np.ndarray, s1: np.ndarray, mean2: np.ndarray, s2: np.ndarray) -> float:
            return float(_compute_fid(*(torch.from_numpy(each) for each in (mean1, s1, mean2, s2))))

        found["torchmetrics (torch eigvals)"] = torchmetrics
    except ImportError as error:
        print(f"without torchmetrics ({error})", file=sys.stderr)
    return found


def declare_operators() -> None:
    """Operators that a torchvision built for CUDA wants beside a torch for CPUs."""
    for name in ("nms", "qnms"):
        try:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            KEPT.append(library)
        except RuntimeError:
            return


KEPT: list[torch.library.Library] = []


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=50_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, samples = arguments.features, arguments.samples
    made, real = draw(samples, size, 0, 1.05), draw(samples, size, 1, 1.0)
    (mean, covariance), statistics_seconds = timed(lambda: feature_statistics(made))
    mean2, covariance2 = feature_statistics(real)
    reference = Reference(mean2, covariance2)
    _, root_seconds = timed(lambda: reference.factor)
    reference.distance_to(mean, covariance)  # imports
    ours, _ = timed(lambda: reference.distance_to(mean, covariance))
    estimate, expansion_seconds = timed(lambda: expand(made, reference))
    print(f"D = {size}, N = {samples:,}; {platform.machine()}, torch {torch.__version__}, numpy {np.__version__}, "
          f"{date.today()}; one thread, processor seconds\n")  # fmt: skip
    found, own = dict[str, tuple[float, float]](), list[float]()
    for name, function in peers().items():
        own.append(timed(lambda: reference.distance_to(mean, covariance))[1])  # in turns
        found[name] = timed(lambda function=function: function(mean, covariance, mean2, covariance2))
    ours_seconds = float(np.median([*own, timed(lambda: reference.distance_to(mean, covariance))[1]]))
    print("| from statistics to distance | seconds | times ours | distance |\n|---|---|---|---|")
    print(f"| ours, the factor cached (found once in {root_seconds:.1f} s) | {ours_seconds:.2f} | 1 | {ours:.9f} |")
    for name, (value, seconds) in found.items():
        print(f"| {name} | {seconds:.2f} | {seconds / ours_seconds:.1f} | {value:.9f} |", flush=True)
    one = statistics_seconds + ours_seconds
    print("\n| from features | seconds | times one distance |\n|---|---|---|")
    print(f"| statistics and distance | {one:.1f} | 1 |")
    print(f"| distance, bias, error, both intervals | {expansion_seconds:.1f} | {expansion_seconds / one:.2f} |")
    beside = expansion_seconds - statistics_seconds
    print(f"| the same and a distance, both without statistics | {beside:.1f} | {beside / ours_seconds:.2f} |")
    chosen = np.random.default_rng(0).integers(samples, size=samples)
    _, replicate = timed(lambda: reference.distance(made[chosen]))
    every = RESAMPLES * replicate
    print(f"| {RESAMPLES} bootstrap replicates, from one | {every:.0f} | {every / one:.0f} |")
    low, high = estimate.interval
    infinite = estimate.infinite
    print(f"\ndistance {estimate.value:.5f} [{low:.5f}, {high:.5f}] at this N; at infinite N "
          f"{estimate.value - estimate.bias:.5f} [{infinite[0]:.5f}, {infinite[1]:.5f}]")  # fmt: skip


if __name__ == "__main__":
    main()
