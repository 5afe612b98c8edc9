"""What can the ruler of the embedded study see? FD-fashion of real test images, altered in known ways.

    python benchmarks/ruler.py

The reference is the 60,000 training images, as in a study. The floor is the distance of unaltered test images with
balanced classes; the last column says how many floors an alteration is worth. Half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.ndimage
import torch

from data_pipeline.fashion import CLASS_NAMES, load_fashion
from scaling.evaluation.extract import extract
from scaling.evaluation.frechet import Reference
from scaling.evaluation.real import balanced
from scaling.evaluation.spaces.small import fashion_space
from scaling.evaluation.spaces.space import ArrayImages

SAMPLES = 5000
FLOORS_AT = (500, 1000, 2000, 5000)
SEED = 0


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Floating-point images in 0..255, rounded and limited to uint8."""
    return np.rint(images).clip(0, 255).astype(np.uint8)


def subset(labels: np.ndarray, kept: list[int]) -> np.ndarray:
    """Indices [SAMPLES] of images of the kept classes alone, balanced."""
    members = np.flatnonzero(np.isin(labels, kept))
    return members[balanced(np.searchsorted(kept, labels[members]), SAMPLES)]


def alterations(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names and altered sets uint8 [SAMPLES, 16, 16] made from the test images."""
    random = np.random.Generator(np.random.Philox(SEED))
    chosen = images[balanced(labels, SAMPLES)]
    for deviation in (0.02, 0.05, 0.1, 0.2):
        yield f"noise of {deviation}", to_bytes(chosen + 255 * deviation * random.standard_normal(chosen.shape))
    kernel = np.full((1, 3, 3), 1 / 9)
    yield "3x3 blur", to_bytes(scipy.ndimage.convolve(chosen.astype(np.float64), kernel, mode="constant"))
    yield "shifted by a pixel", np.roll(chosen, 1, axis=2)
    yield "mirrored", chosen[:, :, ::-1].copy()
    yield "10 % darker", to_bytes(0.9 * chosen)
    for missing, name in enumerate(CLASS_NAMES):
        yield f"without {name}", images[subset(labels, [c for c in range(10) if c != missing])]
    yield "first five classes only", images[subset(labels, [0, 1, 2, 3, 4])]
    for unique in (2, 10):
        yield f"1 in {unique} unique", np.repeat(chosen[: SAMPLES // unique], unique, axis=0)
    yield "black", np.zeros_like(chosen)
    yield "uniform noise", random.integers(256, size=chosen.shape, dtype=np.uint8)


def main() -> None:
    """Print the floors and the table."""
    torch.set_num_threads(1)
    space = fashion_space("cpu")

    def features(images: np.ndarray) -> np.ndarray:
        return extract(space, ArrayImages(images[..., None])).features

    reference = Reference.from_features(features(load_fashion("train")[0]))
    images, labels = load_fashion("test")
    floor = 0.0
    print("| real test images | FD-fashion |\n|---|---|")
    for samples in FLOORS_AT:
        floor = reference.distance(features(images[balanced(labels, samples)]))
        print(f"| N = {samples} | {floor:.3f} |")
    print(f"\n| altered, N = {SAMPLES} | FD-fashion | floors |\n|---|---|---|")
    for name, altered in alterations(images, labels):
        distance = reference.distance(features(altered))
        print(f"| {name} | {distance:.3f} | {distance / floor:.1f} |")


if __name__ == "__main__":
    main()
