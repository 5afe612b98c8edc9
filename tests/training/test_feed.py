"""What reaches training: latents drawn from their moments, memory used again, stand-ins counted and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.manifest import DataError
from data_pipeline.reader import LatentReader
from data_pipeline.writer import write_shards
from models.encoders import get_encoder
from scaling.config.sections import Launch, Loading
from scaling.run.randomness import device_normals
from scaling.training.batches import Batches
from scaling.training.loop import train
from scaling.training.sharding.world import World
from scaling.training.trainer import Trainer
from tests.training.small import SPEC, pack_small

ALONE = World(0, 1, torch.device("cpu"))
ENCODER = get_encoder("fashion-s2d-v1")


def moments(folder: Path, std: float) -> Path:
    """64 samples whose mean is their number / 64 and whose standard deviation is `std`, everywhere."""
    means = np.arange(64, dtype=np.float16) / 64
    samples = [(np.full((8, 8, 8), std, np.float16), 0) for _ in means]
    for (array, _), mean in zip(samples, means, strict=True):
        array[:4] = mean
    manifest = write_shards(samples, folder, dataset="m", encoder="fashion-s2d-v1", num_classes=10)
    replace(manifest, moments=True).save(folder)
    return folder


def drawn(shards: Path, steps: range, microbatch: int = 0, world: World = ALONE) -> torch.Tensor:
    """The latents of these steps, before they are normalised."""
    batches = Batches(SPEC, LatentReader(shards), world, microbatch)
    x0 = torch.cat([batch.x0 for step in steps for batch in batches.step(step)])
    batches.close()
    return ENCODER.denormalize(x0)


def test_latents_are_drawn_from_mean_and_std(tmp_path: Path) -> None:
    """Each sample has its mean and its deviation; seen again it is another draw; splits of the batch change nothing."""
    shards, steps = moments(tmp_path / "m", 0.5), range(SPEC.recipe.steps)
    x = drawn(shards, steps)
    order = Batches(SPEC, LatentReader(shards), ALONE, 0).stream.order.indices(0, len(x))
    eps = (x - torch.from_numpy(order / 64).reshape(-1, 1, 1, 1)) / 0.5
    count = eps.numel()
    assert abs(float(eps.mean())) < 5 / count**0.5
    assert abs(float(eps.var()) - 1) < 5 * (2 / count) ** 0.5
    assert not torch.equal(eps[0], eps[1])
    halves = [drawn(shards, steps, 2, World(rank, 2, torch.device("cpu"))) for rank in range(2)]
    joined = torch.stack([half.reshape(len(steps), -1, *x.shape[1:]) for half in halves], 1).reshape(x.shape)
    torch.testing.assert_close(joined, x, rtol=0, atol=0)
    exact = drawn(moments(tmp_path / "zero", 0.0), steps)
    torch.testing.assert_close(exact[:, 0, 0, 0].double(), torch.from_numpy(order / 64), rtol=0, atol=1e-6)


def test_device_normals_are_normal_and_unrelated() -> None:
    """Moments to the fourth, the tail, and neighbours: elements, halves of a pair, samples (5 deviations)."""
    x = device_normals(3, "test", 100, 500, 1024).double()
    count = x.numel()
    for power, value, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - value) < 5 * (variance / count) ** 0.5, power
    tail = 0.0455003
    assert abs(float((x.abs() > 2).double().mean()) - tail) < 5 * (tail / count) ** 0.5
    for a, b in ((x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[:, :512], x[:, 512:])):
        assert abs(float((a * b).mean())) < 5 / a.numel() ** 0.5
        assert abs(float((a**2 * b**2).mean()) - 1) < 5 * (8 / a.numel()) ** 0.5
    assert torch.equal(device_normals(3, "test", 103, 2, 1024).double(), x[3:5])
    assert device_normals(3, "test", 0, 2, 7).shape == (2, 7)
    assert not torch.equal(device_normals(4, "test", 100, 500, 1024).double(), x)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_threads_and_memory_used_again_change_no_batch(tmp_path: Path, workers: int) -> None:
    shards = pack_small(tmp_path)
    reader = LatentReader(shards)
    batches = Batches(SPEC, reader, ALONE, 4, Loading(workers=workers, read_ahead=3))
    for step in (*range(6), 2, 3):
        for n, batch in enumerate(batches.step(step)):
            numbers = batches.stream.order.indices(step * 8 + 4 * n, 4)
            latents, labels = reader.read(numbers)
            assert torch.equal(batch.x0, ENCODER.normalize(torch.from_numpy(latents).float()))
            assert batch.labels.tolist() == labels.tolist()
    batches.close()


def lose(shards: Path, reader: LatentReader, number: int) -> None:
    """Alter one sample."""
    data = bytearray((shards / "shard-000000.tar").read_bytes())
    data[int(np.load(shards / "shard-000000.index.npy")["offset"][number]) + 9] ^= 1
    (shards / "shard-000000.tar").write_bytes(data)
    reader.close()


def test_stand_ins_are_in_the_metrics_and_continued(tmp_path: Path) -> None:
    """One of 64 samples is lost: 6 steps of 8 see it or not, as the order says, and a checkpoint keeps the count."""
    shards = pack_small(tmp_path)
    order = Batches(SPEC, LatentReader(shards), ALONE, 0).stream.order.indices(0, 48)
    lost = int(order[19])  # in the third step
    lose(shards, LatentReader(shards), lost)
    loading, home = Loading(on_bad_shard="skip", bad_share=0.999), tmp_path / "home"
    home.mkdir()
    with pytest.raises(DataError, match="is altered"):
        train(SPEC, home, LatentReader(shards), None, Launch(device="cpu"), ALONE, lambda: False)
    launch = Launch(device="cpu", log_every=1)
    with pytest.raises(DataError, match=r"more than data.bad_share 99.90%"):
        train(SPEC, home, LatentReader(shards, lenient=True), None, launch, ALONE, lambda: False, loading)
    trainer = Trainer(SPEC, LatentReader(shards, lenient=True), None, launch, ALONE, loading)
    trainer.batches.stream.bad_share = 1.0
    found: list[dict[str, Any]] = []
    for _ in range(6):
        trainer.train_step()
        found.append(trainer.set_aside())
    assert [each["stand_ins"] for each in found] == [0, 0, 1, 1, 1, 1]
    assert found[-1]["bad_shards"] == 1
    assert trainer.metadata()["stand_ins"] == 1
    assert json.loads((home / "metrics.jsonl").read_text().splitlines()[-1])["stand_ins"] == 0
