"""Train a small network whose features are a ruler: `trigscale ruler train`, and that of FD-fashion.

It sees the training images only; held-out ones serve to say what it sees, after training. The recipe is the plain one,
without augmentation: a ruler must see shifts, mirror images, grain and blur. Everything is drawn from one seeded
generator, so that the same machine and torch version give the same weights; another machine may round differently,
which is why every score carries the hash of the weights. That of FD-fashion, which ships, was made by

    python -m scaling.evaluation.spaces.train_small --to fashion_classifier.safetensors
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from data_pipeline.fashion import load_fashion
from data_pipeline.files import sha256_file, write_bytes_atomic
from scaling.evaluation.spaces.small import SmallNetwork, as_tensor

SEED = 0
EPOCHS = 4
BATCH = 256
LEARNING_RATE = 1e-3
TURNS = 4

log = logging.getLogger(__name__)


def train(
    images: np.ndarray, labels: np.ndarray, classes: int, epochs: int, seed: int, *, rotations: bool = False
) -> SmallNetwork:
    """A network trained by cross-entropy on images uint8 [N, H, W, C] and labels integer [N].

    With `rotations` the labels are not looked at: each image of a batch is turned by a quarter turn drawn for it, and
    that is what is learnt. Adam at a constant rate; initial weights, order and turns come from `seed`. The last,
    incomplete batch of an epoch is left out; a set smaller than a batch is one.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = images.shape[1:]
    network = SmallNetwork(height, width, channels, classes)
    network.initialise(generator)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    batch = min(BATCH, len(images))
    targets = torch.from_numpy(labels).long()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(images) // batch * batch].split(batch):
            x, wanted = as_tensor(images[chosen.numpy()]), targets[chosen]
            if rotations:
                wanted = torch.randint(TURNS, (len(x),), generator=generator)
                x = turned(x, wanted)
            loss = F.cross_entropy(network(x), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        log.info("epoch %d of %d done", epoch + 1, epochs)
    return network


def turned(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Square images [N, C, S, S], each turned by its number of quarter turns [N]."""
    return torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])


@torch.no_grad()
def accuracy(network: SmallNetwork, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images uint8 [N, H, W, C] whose largest logit is at their label [N]."""
    parts = [network(as_tensor(images[i : i + 1000])).argmax(dim=1).numpy() for i in range(0, len(images), 1000)]
    return float((np.concatenate(parts) == labels).mean())


def main() -> None:
    """Train FD-fashion's network on the embedded training images; print its accuracy on both splits and its hash."""
    parser = argparse.ArgumentParser(prog="python -m scaling.evaluation.spaces.train_small", description=main.__doc__)
    parser.add_argument("--to", type=Path, required=True, help="safetensors file to write")
    to = parser.parse_args().to
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    images, labels = load_fashion("train")
    network = train(images[..., None], labels, 10, EPOCHS, SEED)
    for split in ("train", "test"):
        images, labels = load_fashion(split)
        print(f"accuracy on the {split} images: {accuracy(network, images[..., None], labels):.4f}")
    write_bytes_atomic(to, safetensors.torch.save(network.state_dict()))
    print(f"{to}: SHA-256 {sha256_file(to)}")


if __name__ == "__main__":
    main()
