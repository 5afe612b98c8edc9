"""The same images and the same random weights through others' tools and ours: where do they differ, and why?

    PEERS=/folder/with/peers python benchmarks/metrics_agreement.py [--images 64] [--samples 2000]

Two parts, since the distances need no network. Features: `--images` images of 64 x 64 through each tool's resize and
Inception with one set of random weights. Distances: `--samples` made-up features of 256 dimensions through each tool's
functions. Peers: clean-fid 0.1.35, pytorch-fid 0.3.0, torch-fidelity 0.3.0, torchmetrics 1.9.0, prdc 0.2, torchvision
0.28.0, installed apart by `pip install --target DIR --no-deps`. Guesses were written down before the first run.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.frechet import declare_operators
from scaling.evaluation.frechet import Reference
from scaling.evaluation.kernel import kernel_distance
from scaling.evaluation.moments import feature_statistics
from scaling.evaluation.neighbours import compare
from scaling.evaluation.spaces.inception import InceptionSpace
from scaling.evaluation.spaces.inception_network import random_network
from scaling.evaluation.spaces.resize import Mode

SIDE, SIZE = 64, 256


@dataclass(frozen=True)
class Row:
    """One comparison: what, a peer's value, ours, the guess before the run, and why they differ."""

    what: str
    theirs: float
    ours: float
    guess: str
    why: str

    def __str__(self) -> str:
        apart = abs(self.theirs - self.ours) / max(abs(self.ours), 1e-300)
        return f"| {self.what} | {self.theirs:.9g} | {self.ours:.9g} | {apart:.1e} | {self.guess} | {self.why} |"


def distances(samples: int) -> Iterator[Row]:
    """Functions from features to a number."""
    generator = np.random.default_rng(0)
    scales = np.arange(1, SIZE + 1) ** -0.5
    made, real = (generator.standard_normal((samples, SIZE)) * scales + shift for shift in (0.05, 0.0))
    made, real = made.astype(np.float32), real.astype(np.float32)
    statistics = (*feature_statistics(made), *feature_statistics(real))
    ours = Reference(*statistics[2:]).distance_to(*statistics[:2])
    from cleanfid.fid import frechet_distance  # pyright: ignore
    from cleanfid.fid import kernel_distance as clean_kernel  # pyright: ignore
    from pytorch_fid.fid_score import calculate_frechet_distance  # pyright: ignore
    from torch_fidelity.metric_fid import fid_statistics_to_metric  # pyright: ignore
    from torchmetrics.image.fid import _compute_fid  # pyright: ignore

    yield Row("FD, clean-fid", frechet_distance(*statistics), ours, "9 digits", "complex root of a product")
    yield Row("FD, pytorch-fid", calculate_frechet_distance(*statistics), ours, "9 digits", "as clean-fid")
    named = [dict(zip(("mu", "sigma"), pair, strict=True)) for pair in (statistics[:2], statistics[2:])]
    fidelity = fid_statistics_to_metric(*named, verbose=False)["frechet_inception_distance"]
    yield Row("FD, torch-fidelity", fidelity, ours, "9 digits", "as clean-fid")
    tensors = [torch.from_numpy(each) for each in statistics]
    yield Row("FD, torchmetrics", float(_compute_fid(*tensors)), ours, "9 digits", "eigenvalues of S1 S2")
    halves = [torch.from_numpy(each).float() for each in statistics]
    yield Row("FD, torchmetrics in float32", float(_compute_fid(*halves)), ours, "3 digits", "rounding")
    few = (*feature_statistics(made[: SIZE // 2]), *statistics[2:])
    small = Reference(*statistics[2:]).distance_to(*few[:2])
    yield Row("FD at N = D / 2, clean-fid", frechet_distance(*few), small, "6 digits", "roots of zeros")
    biased = np.cov(made, rowvar=False, ddof=0)
    value = Reference(*statistics[2:]).distance_to(statistics[0], biased)
    yield Row("FD with covariances over N, not N - 1", value, ours, "differs by 1/N", "ddof of a home-made script")
    yield from _kernels(made, real, clean_kernel)
    yield from _neighbours(made[:1000], real[:1000])


def _kernels(made: np.ndarray, real: np.ndarray, clean_kernel: Callable[..., float]) -> Iterator[Row]:
    ours = kernel_distance(made, real)[0]
    np.random.seed(0)  # noqa: NPY002 - clean-fid draws from it
    yield Row("KID, clean-fid (100 subsets of 1000)", float(clean_kernel(real, made)), ours, "a few %", "subset draws")
    from torch_fidelity.metric_kid import kid_features_to_metric  # pyright: ignore

    found = kid_features_to_metric(
        torch.from_numpy(made), torch.from_numpy(real), kid_subsets=100, kid_subset_size=1000, rng_seed=0, verbose=False
    )
    value = found["kernel_inception_distance_mean"]
    yield Row("KID, torch-fidelity (100 subsets of 1000)", value, ours, "a few %", "subset draws")
    sized = kid_features_to_metric(
        torch.from_numpy(made), torch.from_numpy(real), kid_subsets=1, kid_subset_size=len(made), verbose=False
    )["kernel_inception_distance_mean"]
    yield Row("KID, torch-fidelity, one subset of all", sized, ours, "9 digits", "the full estimate")


def _neighbours(made: np.ndarray, real: np.ndarray) -> Iterator[Row]:
    from prdc import compute_prdc  # pyright: ignore

    theirs: dict[str, Any] = compute_prdc(real_features=real, fake_features=made, nearest_k=3)
    ours = compare(made, real, 3)
    for name in ("precision", "recall", "density", "coverage"):
        yield Row(
            f"{name}, k = 3, prdc", float(theirs[name]), getattr(ours, name), "equal", "float32 distances in theirs"
        )


def features(count: int) -> Iterator[str]:
    """Features of the same images by each tool's own pipeline."""
    images = np.random.default_rng(1).integers(256, size=(count, SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    images = images.repeat(4, axis=1).repeat(4, axis=2)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "random.pth"
        torch.save(random_network(0).state_dict(), path)
        names: tuple[Mode, ...] = ("clean", "legacy-tf", "legacy-torch")
        modes = {mode: InceptionSpace(path, mode, "cpu").outputs(images).features for mode in names}
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        from cleanfid.resize import build_resizer  # pyright: ignore

        resized = np.stack([build_resizer("clean")(image) for image in images])
        clean = random_network(0)(torch.from_numpy(resized).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
        yield _apart("clean-fid's resize, clean", clean, modes["clean"], "5 digits", "float32 sums in another order")
        import pytorch_fid.inception as module  # pyright: ignore

        module.load_state_dict_from_url = lambda *_, **__: torch.load(path, weights_only=True)
        network = module.InceptionV3([3]).eval()
        theirs = network(x.float() / 255)[0].reshape(count, -1).numpy()
        yield _apart("pytorch-fid, legacy-torch", theirs, modes["legacy-torch"], "5 digits", "the same")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # pyright: ignore

        extractor = FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=str(path)).eval()
        yield _apart("torch-fidelity, legacy-tf", extractor(x)[0].numpy(), modes["legacy-tf"],
                     "0.4 % off", "pixels as (x - 128) / 128, ours of these weights as x / 127.5 - 1")  # fmt: skip
        for mode in ("legacy-tf", "legacy-torch"):
            yield _apart(f"ours, {mode}, beside clean", modes[mode], modes["clean"], "differs visibly", "resize")


def _apart(what: str, theirs: np.ndarray, ours: np.ndarray, guess: str, why: str) -> str:
    largest = np.abs(theirs - ours).max() / np.abs(ours).max()
    moved = ((theirs.mean(0) - ours.mean(0)) ** 2).sum() / np.trace(np.cov(ours, rowvar=False))
    return f"| {what} | {largest:.1e} | {moved:.1e} | {guess} | {why} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.path += [path for path in os.environ.get("PEERS", "").split(os.pathsep) if path]
    declare_operators()
    print(f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}, {date.today()}\n")
    print(f"{arguments.samples} features of {SIZE} dimensions, eigenvalues 1/i\n")
    print("| distance | theirs | ours | relative difference | guess | why |\n|---|---|---|---|---|---|")
    for row in distances(arguments.samples):
        print(row, flush=True)
    print(f"\n{arguments.images} images of {SIDE} x {SIDE}, random weights\n")
    print("| features | largest difference | means apart, of the trace | guess | why |\n|---|---|---|---|---|")
    for line in features(arguments.images):
        print(line, flush=True)


if __name__ == "__main__":
    main()
