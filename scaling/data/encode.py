"""Images to latents by a VAE: what `trigscale data encode` computes, shard by shard.

A shard is a pure function of the plan: images go through the VAE in groups that start at multiples of a number that
follows from their size, wherever a process begins, so that no result depends on kills or the number of processes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.parts import LARGEST, Plan, Tallies, add_tallies
from data_pipeline.pictures import KINDS, centre_crop, pixels, read_picture
from data_pipeline.sources.source import Source
from models.encoders import EncoderError
from models.vae import OpenVae, VaeFolder, images_a_pass, require_encoders
from scaling.config.encoders import encoder_name, known_encoder
from scaling.config.validation import ConfigError

DTYPE = "float16"
NEW_LOW = -1.0  # VAEs of diffusers are trained on pixels in [-1, 1]
AHEAD = 16  # groups of images that are read before they are needed


@dataclass(frozen=True)
class Job:
    """What is to be encoded and how. side: pixels; mirrored: every image is followed by its mirror image."""

    source: Source
    vae: VaeFolder
    low: float
    encoder: str
    side: int
    mirrored: bool

    @property
    def copies(self) -> int:
        """Samples that come of an image."""
        return 2 if self.mirrored else 1

    def plan(self, samples_per_shard: int) -> Plan:
        """What the set will be. EncoderError where the side is none that the VAE takes."""
        factor = self.vae.factor
        if self.side % factor:
            raise EncoderError(
                f"--size {self.side} does not divide by {factor}, the pixels along a side of a latent pixel of "
                f"{self.vae.path}: take a multiple"
            )
        group = images_a_pass(self.side, self.side)
        made = {"by": "trigscale data encode", "vae_sha256": self.vae.sha256, "low": self.low, "image_side": self.side,
                "mirrored": self.mirrored, "images_a_pass": group, "source_sha256": self.source.digest()}  # fmt: skip
        return Plan(
            dataset=self.source.dataset,
            encoder=self.encoder,
            shape=(2 * self.vae.channels, self.side // factor, self.side // factor),
            dtype=DTYPE,
            moments=True,
            num_classes=self.source.num_classes,
            class_names=self.source.class_names,
            samples=len(self.source) * self.copies,
            samples_per_shard=-(-samples_per_shard // (group * self.copies)) * group * self.copies,
            made=made,
        )


def encoder_to_write(name: str, vae: VaeFolder, new: bool) -> tuple[str, float]:
    """The name that shards will carry, and the lower end of the pixels that the VAE is fed with.

    Raises ConfigError for an unknown name that is not said to be new, EncoderError for the VAE of another encoder.
    """
    if not new:
        encoder = known_encoder(name, "--encoder")
        require_encoders(vae, encoder)
        assert encoder.vae is not None, "required"
        return encoder.shards or encoder.name, encoder.vae.low
    try:
        return encoder_name(name), NEW_LOW
    except ValueError as error:
        raise ConfigError(f"--encoder {name}: {error}") from None


def encode_shard(
    job: Job, vae: OpenVae, span: range, threads: ThreadPoolExecutor, tallies: Tallies, seen: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, int]]:
    """Moments float16 [2c, h, w] and the label of each sample of a span, which begins at a whole group.

    Reading runs ahead in `threads`; the VAE computes a group while the one before it is written (on a GPU). `seen` is
    told how many images were encoded. DataError names an image that cannot be read.
    """
    images = range(span.start // job.copies, -(-span.stop // job.copies))
    group = images_a_pass(job.side, job.side)
    starts = iter(range(images.start, images.stop, group))
    reading: deque[Future[_Group]] = deque()
    running: deque[tuple[_Group, Tensor]] = deque()

    def read(start: int) -> Future[_Group]:
        return threads.submit(_read_group, job, range(start, min(start + group, images.stop)), vae.device)

    reading.extend(map(read, islice(starts, AHEAD)))
    while reading or running:
        if reading:
            ready = reading.popleft().result()
            reading.extend(map(read, islice(starts, 1)))
            running.append((ready, vae.moments(ready.images)))
        if len(running) > 1 or not reading:
            yield from _collect(job, *running.popleft(), tallies, seen)


@dataclass(frozen=True)
class _Group:
    numbers: range
    images: Tensor  # uint8 [N, H, W, 3], every second one the mirror image of the one before it if they are asked for
    counts: Counter[str]


def _read_group(job: Job, numbers: range, device: torch.device) -> _Group:
    counts: Counter[str] = Counter()
    out = np.empty((len(numbers), job.copies, job.side, job.side, 3), np.uint8)
    for place, number in zip(out, numbers, strict=True):
        where = job.source.where(number)
        image = centre_crop(read_picture(job.source.read(number), where, counts), job.side)
        place[0] = pixels(image, 3, where)
        if job.mirrored:
            place[1] = place[0, :, ::-1]
    images = torch.from_numpy(out.reshape(-1, job.side, job.side, 3))
    return _Group(numbers, images.pin_memory() if device.type == "cuda" else images, counts)


def _collect(
    job: Job, group: _Group, moments: Tensor, tallies: Tallies, seen: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, int]]:
    exact = moments.cpu().numpy()
    stored = exact.astype(np.float16)
    add_tallies(tallies, tally_errors(exact, stored) | group.counts)
    labels = np.repeat(job.source.labels[group.numbers.start : group.numbers.stop], job.copies)
    yield from zip(stored, labels.tolist(), strict=True)
    seen(len(group.numbers))


def tally_errors(exact: np.ndarray, stored: np.ndarray) -> Tallies:
    """How far float16 is from what the VAE gave."""
    error = np.abs(stored.astype(np.float64) - exact)
    return {
        "squared error": float(np.square(error).sum()),
        "squares": float(np.square(exact, dtype=np.float64).sum()),
        f"{LARGEST}error": float(error.max()),
    }


def describe_tallies(tallies: Tallies) -> dict[str, Any]:
    """What the manifest says of a whole set: kinds of images, and the error of float16.

    float16_error is the root mean square of the error over that of the values; float16_largest_error the largest.
    """
    counts = {f"images_{kind.replace(' ', '_')}": int(tallies[kind]) for kind in KINDS if tallies.get(kind)}
    relative = (tallies["squared error"] / tallies["squares"]) ** 0.5 if tallies["squares"] else 0.0
    return {**counts, "float16_error": float(f"{relative:.3g}"),
            "float16_largest_error": float(f"{tallies[f'{LARGEST}error']:.3g}")}  # fmt: skip
