"""Train the classifier whose features are the ruler of the embedded study, and write its weights.

    python -m scaling.evaluation.train_classifier --to fashion_classifier.safetensors

It sees the 60,000 training images of Fashion-MNIST only; the test images serve to print the accuracy, after training.
The recipe is the plain one, without augmentation: a ruler must see shifts, mirror images, grain and blur. How much it
sees of each stands in benchmarks/results/ruler.md.

Everything is drawn from one seeded generator and runs on one CPU thread, so that the same machine and torch version
give the same bytes; another machine may round differently, so the weights that ship are checked by their own hash and
not by training again. About one minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from data_pipeline.fashion import load_fashion
from data_pipeline.files import sha256_file, write_bytes_atomic
from scaling.evaluation.classifier import FashionClassifier

SEED = 0
EPOCHS = 4
BATCH = 256
LEARNING_RATE = 1e-3


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 16, 16] -> float32 [N, 1, 16, 16] in [0, 1]."""
    return torch.from_numpy(images)[:, None].float() / 255


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int) -> FashionClassifier:
    """A classifier trained by cross-entropy on images float32 [N, 1, 16, 16] and labels int64 [N].

    Adam at a constant rate; initial weights and order come from `seed`. The last, incomplete batch of an epoch is left
    out.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = FashionClassifier()
    classifier.initialise(generator)
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    batches = len(images) // BATCH
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: batches * BATCH].split(BATCH):
            loss = F.cross_entropy(classifier(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs} done", flush=True)
    return classifier


@torch.no_grad()
def accuracy(classifier: FashionClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images float32 [N, 1, 16, 16] whose largest logit is at their label int64 [N]."""
    predicted = torch.cat([classifier(part).argmax(dim=1) for part in images.split(1000)])
    return (predicted == labels).float().mean().item()


def main() -> None:
    """Train on the training images, print the accuracy on both splits, write the weights and print their hash."""
    parser = argparse.ArgumentParser(prog="python -m scaling.evaluation.train_classifier", description=main.__doc__)
    parser.add_argument("--to", type=Path, required=True, help="safetensors file to write")
    to = parser.parse_args().to
    torch.set_num_threads(1)
    images, labels = load_fashion("train")
    classifier = train(as_tensor(images), torch.from_numpy(labels).long(), EPOCHS, SEED)
    for split in ("train", "test"):
        images, labels = load_fashion(split)
        share = accuracy(classifier, as_tensor(images), torch.from_numpy(labels).long())
        print(f"accuracy on the {split} images: {share:.4f}")
    write_bytes_atomic(to, safetensors.torch.save(classifier.state_dict()))
    print(f"{to}: SHA-256 {sha256_file(to)}")


if __name__ == "__main__":
    main()
