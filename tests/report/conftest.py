"""A made-up study folder in the format that runs leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.run.home import StudyFolder, write_model
from scaling.run.samples import REAL, Samples, maker
from scaling.run.schemas import StudyRuns

MACS = {"xs": 310_000, "s": 690_000, "m": 1_850_000, "l": 4_600_000}
STEPS = {"teacher": ((9, 17),), "scd": ((1, 1), (2, 2)), "sct": ((1, 1), (2, 2))}
RATIOS = {("teacher", 9): (1.0, 0.0), ("scd", 1): (1.5, 0.0), ("scd", 2): (1.2, 0.0)}
RATIOS |= {("sct", 1): (9.0, -0.4), ("sct", 2): (6.0, -0.4)}
PASSES = {"teacher": 3, "scd": 5, "sct": 4}
FLOOR, N = 0.21, 5000


def true_distance(method: str, steps: int, size: str) -> float:
    """9 (MACs / smallest)^-0.35 for teachers, times a constant for sCD and a falling ratio for sCT."""
    relative = MACS[size] / MACS["xs"]
    level, slope = RATIOS[method, steps]
    return 9 * relative**-0.35 * level * relative**slope


def _pictures(random: np.random.Generator, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 10
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    shapes = np.stack([np.exp(-(((x / (0.3 + 0.05 * c)) ** 4) + (y / (0.9 - 0.06 * c)) ** 4)) for c in labels])
    grain = noise * random.standard_normal(shapes.shape)
    return (255 * (shapes + grain).clip(0, 1)).astype(np.uint8), labels


def _metrics(random: np.random.Generator, method: str, size: str) -> str:
    lines = []
    for step in range(20, 1501, 20):
        line = {"step": step, "images": 64 * step, "lr": 1e-3, "grad_norm": 0.3, "images_per_second": 500.0}
        line["loss"] = float(np.exp(-step / 200) - 0.1 * np.log(MACS[size]) + 0.05 * random.standard_normal())
        if method != "teacher":
            line["tangent_norm"] = float(20 * np.exp(0.2 * random.standard_normal() - step / 1000))
        lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"


def write_run(folder: Path, method: str, size: str, seed: int = 0, n: int = N) -> Path:
    """Write one finished run of the made-up study; everything follows from the arguments."""
    order = [*STEPS].index(method) * 100 + [*MACS].index(size) * 10 + seed
    random = np.random.default_rng(order)
    home = folder / f"{method}-{size}-{order:08x}"
    (home / "samples").mkdir(parents=True)
    scores: list[dict[str, Any]] = []
    for steps, nfe in STEPS[method]:
        fd = true_distance(method, steps, size) * float(np.exp(0.02 * random.standard_normal()))
        replicates = fd + 0.2 + 0.02 * fd * random.standard_normal(200)
        scores.append({"steps": steps, "nfe": nfe, "fd": fd, "replicates": replicates.tolist()})
        images, labels = _pictures(random, 40, 0.05 * steps)
        samples = Samples(images[..., None], labels, maker(home.name, steps))
        (home / "samples" / f"steps-{steps}.npz").write_bytes(samples.to_npz())
    identity = {"study": folder.name, "run": home.name, "method": method, "size": size, "seed": seed}
    cost: dict[str, Any] = {"parameters": MACS[size] // 10, "macs": MACS[size]}
    cost |= {"images": 96_000, "training": 96_000.0 * PASSES[method] * MACS[size], "decoder": 0.0}
    cost |= {"metric": "fd-fashion", "n": n, "floor": FLOOR}
    untrained = 512.0 if method == "teacher" else None
    (home / "scores.json").write_text(json.dumps({**identity, **cost, "untrained": untrained, "scores": scores}))
    (home / "metrics.jsonl").write_text(_metrics(random, method, size))
    (home / "config.yaml").write_text(f"method: {method}\nsize: {size}\nseed: {seed}\n")
    times = {"train": 40.5, "sample": 6.0, "evaluate": 2.0, "peak_memory_bytes": 600_000_000, "threads": 1}
    (home / "timings.json").write_text(json.dumps(times))
    study = StudyFolder(folder)
    write_model(study.runs, StudyRuns(runs=(*(each.name for each in study.homes()), home.name)))
    return home


def write_study(
    folder: Path, methods: Sequence[str] = tuple(STEPS), sizes: Sequence[str] = tuple(MACS), seeds: int = 1
) -> Path:
    """Write a finished made-up study and return its folder."""
    for method in methods:
        for size in sizes:
            for seed in range(seeds):
                write_run(folder, method, size, seed)
    images, labels = _pictures(np.random.default_rng(99), 200, 0.0)
    (folder / "real.npz").write_bytes(Samples(images[..., None], labels, REAL).to_npz())
    environment = {
        "study": folder.name,
        "started": "2025-01-31T12:00:00+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "command": "trigscale study run configs/study/fashion.yaml",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "machine": {"cpu": "Example CPU", "cores": 2, "memory_bytes": 8 * 2**30, "device": "cpu"},
        "seeds": list(range(seeds)),
        "stages": {"data": 3.2, "runs": 540.0, "report": 8.0},
        "wall_seconds": 551.2,
        "data": {"dataset": "fashion", "samples": 60000, "content_sha256": "ab" * 32, "encoder": "s2d"},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture(name="write_study", scope="session")
def _write_study() -> Callable[..., Path]:
    return write_study


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(name="true_distance", scope="session")
def _true_distance() -> Callable[[str, int, str], float]:
    return true_distance
