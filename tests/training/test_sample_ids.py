"""Which samples every step trains on, told by the samples themselves, through kills and changes of the world.

Every rank writes down a hash of each sample that reaches its loss. What they should be follows from the shards and the
order alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.fashion import load_fashion
from data_pipeline.opening import order_of
from data_pipeline.reader import LatentReader
from models.encoders import get_encoder
from scaling.data.sources import pack_images
from scaling.methods.batch import Batch, Losses
from scaling.run.randomness import derive_seed
from scaling.run.spec import load_run
from tests.study.conftest import STUDY, merge, prepare_homes
from tests.training.kills import World, configure, newest_step, run_rank

STEPS, BATCH, SAMPLES = 14, 24, 100
Lives = list[tuple[int, int, int]]  # ranks, threads that read, the step after which all are killed
BY_DAY: Lives = [(1, 0, 3), (2, 1, 7), (3, 4, STEPS)]
AT_NIGHT: Lives = [(8, 1, 3), (1, 4, 5), (3, 0, 7), (2, 4, 9), (8, 0, 12), (1, 1, STEPS)]


def hashes(x0: torch.Tensor) -> list[str]:
    return [hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16] for sample in x0]


def once(ids: list[str]) -> list[str]:
    """Of a first gradient that was computed twice, of the same samples (`Engine.settles`), those of one time."""
    half = len(ids) // 2
    return ids[:half] if ids[:half] == ids[half:] else ids


def logging_rank(variables: dict[str, str], home: str) -> None:
    """A rank as the launcher starts it, which notes what reaches its loss."""
    from scaling.training.trainer import Trainer

    loss = Trainer.loss

    def noting(self: Trainer, batch: Batch, turn: Any = None) -> Losses:
        line = {"life": variables["LIFE"], "step": self.step, "rank": self.world.rank, "ids": hashes(batch.x0)}
        with (Path(home) / f"ids-{os.getpid()}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return loss(self, batch, turn)

    Trainer.loss = noting
    run_rank(variables, home)


def prepare(folder: Path, **data: Any) -> Path:
    """The home of a teacher that has not begun, on 100 real images; an epoch ends within its fifth step."""
    images, labels = load_fashion("test")
    for name, part in (("source", slice(0, SAMPLES)), ("held_out", slice(300, 600))):
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), folder / name, name, 10)
    data |= {name: str(folder / name) for name in ("source", "held_out")}
    launch = {"folder": str(folder / "runs"), "log_every": 1, "checkpoint_seconds": 1e-9}
    teacher = {"steps": STEPS, "batch": BATCH}
    changes = {"methods": ["teacher"], "data": data, "launch": launch, "teacher": teacher}
    (folder / "study.yaml").write_text(yaml.safe_dump(merge(STUDY, changes)))
    return prepare_homes(folder / "study.yaml").of("teacher")


def live(home: Path, life: int, ranks: int, threads: int, until: int) -> None:
    """Run it under so many ranks and kill all once the checkpoint of step `until` is there, unless it is the last."""
    configure(home, devices=ranks, strategy="ddp", microbatch=3 if ranks == 8 else 4)
    content = yaml.safe_load((home / "config.yaml").read_text())
    content["loading"]["workers"] = threads
    (home / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    world = World(home, ranks, logging_rank, {"LIFE": str(life)})
    if until == STEPS:
        assert world.codes() == [0] * ranks, (home / "log.txt").read_text()[-3000:]
        return
    deadline = time.monotonic() + 240
    while newest_step(home) < until:
        assert world.alive(), (home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    world.signal(signal.SIGKILL)
    world.end(60)


@pytest.mark.parametrize(
    ("lives", "data"),
    [
        (BY_DAY, {}),
        pytest.param(AT_NIGHT, {}, marks=pytest.mark.nightly),
        pytest.param(AT_NIGHT, {"window_blocks": 3, "window_block": 7}, marks=pytest.mark.nightly),
    ],
    ids=["day", "night", "windows"],
)
def test_the_same_samples_for_any_world_threads_and_kills(tmp_path: Path, lives: Lives, data: dict[str, Any]) -> None:
    home = prepare(tmp_path, **data)
    for life, (ranks, threads, until) in enumerate(lives):
        live(home, life, ranks, threads, until)
    run = load_run(home)
    reader = LatentReader(run.shards)
    window = run.spec.data.window
    blocks, block = (window.blocks, window.block) if window else (0, 0)
    order = order_of(reader.manifest, blocks, block, derive_seed(run.spec.seed, "order"))
    latents, _ = reader.read(np.arange(SAMPLES))
    ids = hashes(get_encoder(run.spec.data.encoder).normalize(torch.from_numpy(latents).float()))
    assert len(set(ids)) == SAMPLES
    seen: dict[tuple[int, int], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in home.glob("ids-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            seen[int(line["life"]), line["step"]][line["rank"]] += line["ids"]
    checked = set()
    for (life, step), by_rank in seen.items():
        batch = [sample for rank in sorted(by_rank) for sample in once(by_rank[rank])]
        if len(batch) == BATCH:  # else it was killed within the step
            assert batch == [ids[n] for n in order.indices(step * BATCH, BATCH)], (life, step)
            checked.add(step)
        assert len(by_rank) <= lives[life][0]
    assert checked == set(range(STEPS))
    assert {life for life, _ in seen} == set(range(len(lives)))
