"""The studies of the paper by their own files: every method is trained, sampled and reported, on random data.

At night the smallest network as it is, 20 steps of batch 1 in float32; by day (CIFAR-10) one of its form with few
channels, 3 steps in the precision of the file. Of other keys only those change that say where things lie and how much
is drawn.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_pipeline.writer import write_shards
from scaling.config.families import CONFIGS
from scaling.run.home import StudyFolder
from scaling.run.metrics import read_metrics
from scaling.work.stages import run
from scaling.work.stopping import StopRequest
from slurm.graph import JobGraph
from tests.data.conftest import save_vae

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib
# By study: its family, its smallest size, the latents of a sample, classes; GB that a run of that size may hold.
STUDIES: dict[str, tuple[str, str, tuple[int, int, int], int, int]] = {
    "cifar10": ("cifar10", "base", (3, 32, 32), 10, 3),
    "imagenet64": ("img64", "s", (3, 64, 64), 1000, 14),
    "imagenet512": ("img512", "s", (4, 64, 64), 1000, 20),
}
METHODS = {
    "cifar10": ["teacher", "sct", "scd"],
    "imagenet64": ["teacher", "sct", "scd"],
    "imagenet512": ["teacher", "sct", "scd", "scd_vsd"],
}
STEPS = 20
SHOWN = 2  # images that a run draws
FEW = {"model_channels": 16, "blocks_per_level": 1, "head_channels": 16}


@contextmanager
def launched_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`study run` takes its runs one after the other in this process, draws few samples and no figures."""

    def run_here(graph: JobGraph, **_: Any) -> None:
        for job in graph.jobs.values():
            run(Path(job.command[-1]), StopRequest())

    none: dict[str, list[Any]] = {"curves": [], "overview": [], "training": [], "samples": []}
    with monkeypatch.context() as patched:
        patched.setattr("scaling.study.run.run_local", run_here)
        patched.setattr("scaling.report.build.draw_pictures", lambda *_: none)
        patched.setattr("scaling.sampling.evaluations.LOOKED_AT", SHOWN)
        yield


def overrides(name: str, folder: Path, steps: int) -> list[str]:
    """What is changed of the file: where data lie, how many steps of one sample, how much is drawn."""
    _, size, shape, classes, _ = STUDIES[name]
    noise = np.random.default_rng(0).normal(0, 0.5, (16, *shape)).astype(np.float16)
    encoder = "sd-vae-ft-mse-v1" if name == "imagenet512" else "rgb-v1"
    samples = ((array, label % classes) for label, array in enumerate(noise))
    write_shards(samples, folder / "shards", dataset="noise", encoder=encoder, num_classes=classes)
    said = [f"sizes=[{size}]", f"data.source={folder / 'shards'}", f"data.held_out={folder / 'shards'}"]
    said += [f"{method}.{key}" for method in METHODS[name] for key in (f"steps={steps}", "batch=1")]
    said += ["sampling.teacher_steps=1", f"sampling.batch={SHOWN}", "evaluation.metric=none", "launch.device=cpu"]
    said += [f"launch.folder={folder / 'runs'}", "launch.devices=1", "launch.microbatch=1", "launch.log_every=1"]
    said += ["launch.checkpoint_seconds=86400", "launch.checkpoint_keep=1"]
    if name == "imagenet512":
        said.append(f"data.vae={save_vae(folder / 'vae', **VAE)}")
    return said


VAE: dict[str, Any] = {
    "block_out_channels": (4, 4, 4, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def losses(folder: Path) -> dict[str, list[float]]:
    """What each run logged, by method; every run has its samples and its scores."""
    found = {}
    for home in StudyFolder(folder).homes():
        assert home.read_scores() is not None
        assert len(home.sampled()) == (1 if home.name.startswith("teacher") else 2)
        found[home.name.partition("-")[0]] = [line["loss"] for line in read_metrics(home.metrics).lines]
    return found


def run_file(name: str, cli: Fixture, folder: Path, said: list[str], steps: int) -> dict[str, list[float]]:
    """The losses of `trigscale study run FILE key=value ...`, all finite."""
    path = CONFIGS / "study" / f"{name}.yaml"
    assert cli("study", "plan", path).code == 0
    result = cli("study", "run", path, *said)
    assert result.code == 0, result.err
    found = losses(folder / "runs" / name)
    assert [*found] == METHODS[name]
    for method, values in found.items():
        assert len(values) == steps, method
        assert all(value is not None and math.isfinite(value) for value in values), (method, values)
    assert (folder / "runs" / name / "report" / "index.html").exists()
    return found


@pytest.mark.slow  # three runs and a report
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "cifar10" else pytest.mark.nightly) for name in STUDIES]
)
def test_every_method_of_a_small_form_of_it(
    tmp_path: Path, cli: Fixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    family, *_ = STUDIES[name]
    content = yaml.safe_load((CONFIGS / "family" / f"{family}.yaml").read_text())
    small = {"common": content["common"] | FEW, "sizes": {key: {} for key in content["sizes"]}, "strategy": {}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content | small))
    said = [*overrides(name, tmp_path, 3), f"family={tmp_path / 'small.yaml'}"]
    with launched_here(monkeypatch):
        run_file(name, cli, tmp_path, said, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("name", STUDIES)
def test_every_method_of_its_smallest_network(
    tmp_path: Path, cli: Fixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Gigabytes of memory and of disk, and minutes to an hour of a core."""
    needs = STUDIES[name][4] * 10**9
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if min(memory, shutil.disk_usage(tmp_path).free / 2) < needs:
        pytest.skip(f"wants {needs / 1e9:g} GB of memory, and twice that of disk")
    try:
        with launched_here(monkeypatch):
            said = [*overrides(name, tmp_path, STEPS), "precision=fp32"]
            found = run_file(name, cli, tmp_path, said, STEPS)
        print({method: [round(value, 4) for value in (values[0], values[-1])] for method, values in found.items()})
    finally:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
