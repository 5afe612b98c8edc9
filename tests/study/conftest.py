"""A tiny study that is planned, run, interrupted and damaged as a user would."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.cli.main import app, run_cli
from scaling.data.reference import write_references
from scaling.data.sources import pack_images, prepare
from scaling.run.home import StudyFolder
from scaling.run.spec import PlannedRun
from scaling.study.expand import expand
from scaling.study.launch import write_homes
from scaling.study.open import open_study
from scaling.training.checkpoints import checkpoint
from slurm.local import LAUNCHER_PID
from tests.forked import Program

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 300
LOG_EVERY = 4
STUDENT = {"steps": 18, "batch": 16, "lr": 0.01, "lr_decay_steps": 10, "lr_rampup_images": 100}
STUDENT |= {"teacher_ema": 0.1, "warmup_steps": 8, "dropout": 0.1}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "family": "nano",
    "sizes": ["xs"],
    "methods": ["teacher", "scd", "sct"],
    "teacher": {"steps": 30, "batch": 16, "lr": 0.04, "lr_decay_steps": 10, "lr_rampup_images": 100, "dropout": 0.1},
    "scd": STUDENT,
    "sct": STUDENT,
    "ema": {"sigma_rel": [0.1]},
    "sampling": {"teacher_steps": 3, "teacher_ema": 0.1, "student_ema": 0.1, "batch": 50},
    "evaluation": {"samples": 100, "resamples": 20},
    # A checkpoint at every logged step.
    "launch": {"device": "cpu", "threads": 1, "workers": 2, "checkpoint_seconds": 1e-9, "log_every": LOG_EVERY},
}


def merge(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`content` with the values of `changes`, section by section."""
    merged = copy.deepcopy(content)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The `data` section of a study on 300 real images in shards, and as many held out."""
    folder = tmp_path_factory.mktemp("shards")
    images, labels = load_fashion("test")
    for name, part in (("train", slice(0, 300)), ("held-out", slice(300, 600))):
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), folder / name, name, 10)
    return {"source": str(folder / "train"), "held_out": str(folder / "held-out")}


WriteStudy = Callable[..., Path]


@pytest.fixture(scope="session")
def write_study(shards: dict[str, str]) -> WriteStudy:
    """Write the tiny study, changed where asked, to FOLDER/study.yaml; its runs will be in FOLDER/runs."""

    def writing(folder: Path, **changes: Any) -> Path:
        base = merge(STUDY, {"data": shards, "launch": {"folder": str(folder / "runs")}})
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(merge(base, changes), sort_keys=False))
        return path

    return writing


@pytest.fixture(scope="session")
def content(shards: dict[str, str]) -> dict[str, Any]:
    """The tiny study as plain values, without a folder."""
    return merge(STUDY, {"data": shards})


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[Any]) -> Cli:
    """Run the command line in this process; an exception that a user would see as a traceback comes out here."""

    def running(*arguments: str | Path) -> Result:
        capfd.readouterr()
        code = run_cli(lambda: app([str(argument) for argument in arguments]))
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return running


@dataclass
class Launched:
    """A command line in a process of its own."""

    process: subprocess.Popen[str] | Program

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        """The processes of its runs, alive, orphaned ones too."""
        if isinstance(self.process, Program):
            return self.process.workers()
        mark = f"{LAUNCHER_PID}={self.process.pid}".encode()
        return [pid for pid in _processes() if mark in _environment(pid)]

    def wait(self) -> Result:
        out, err = self.process.communicate(timeout=LIMIT_SECONDS)
        code = self.process.returncode
        assert code is not None, "it has ended"
        return Result(code, out, err)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """A living process's environment; that of a zombie is empty."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _variables() -> dict[str, str]:
    bounds = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **bounds, "PYTHONPATH": str(ROOT)}


def _start(program: str | Path, *arguments: str | Path) -> Launched:
    """A module, or the script at a path, in an interpreter of its own."""
    name = ["-m", program] if isinstance(program, str) else [str(program)]
    command, pipe = [sys.executable, *name, *map(str, arguments)], subprocess.PIPE
    return Launched(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_variables()))


def _forked(folders: pytest.TempPathFactory, program: str | Path, *arguments: str | Path) -> Launched:
    """The same, forked from a process that has imported everything."""
    words = [str(each) for each in arguments]
    return Launched(Program(folders.mktemp("spawned"), str(program), words, _variables()))


Spawn = Callable[..., Launched]


@pytest.fixture
def spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawn]:
    """Start a module, or the script at a path, in a process; what still runs at the end of the test is killed.

    The process is forked from one that has imported everything, unless it is to be `fresh`: where the start is tested.
    """
    started: list[Launched] = []

    def starting(program: str | Path, *arguments: str | Path, fresh: bool = False) -> Launched:
        launch = _start if fresh else partial(_forked, tmp_path_factory)
        started.append(launch(program, *arguments))
        return started[-1]

    yield starting
    for launched in started:
        for pid in launched.workers():
            os.kill(pid, signal.SIGKILL)
        launched.kill()
        launched.process.communicate()


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """Wait for something to become true, with a generous limit."""

    def waiting(true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not true():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    return waiting


def saved(home: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((home / "checkpoints").glob("step-????????"))


def metrics(home: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock and the memory say."""
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "memory_bytes")} for line in lines]


def assert_equal_runs(home: Path, reference: Path) -> None:
    """Scores, logged steps, final weights and samples of `home` are those of `reference`; nothing is half-written."""
    assert (home / "scores.json").read_bytes() == (reference / "scores.json").read_bytes()
    assert metrics(home) == metrics(reference)
    final, expected = (checkpoint.load(saved(folder)[-1]) for folder in (home, reference))
    assert final.metadata == expected.metadata
    assert final.stored == expected.stored
    tensors = final.part("")
    assert all(tensor.equal(tensors[name]) for name, tensor in expected.part("").items())
    assert (home / "checkpoints" / "newest").read_text() == f"{final.path.name}\n"
    for path in (reference / "samples").iterdir():
        assert (home / "samples" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in (home / "checkpoints").iterdir() if "partial" in path.name] == []


@dataclass(frozen=True)
class Homes:
    """A study's folder with the homes of its runs."""

    study: Path
    runs: dict[str, PlannedRun] = field(repr=False)

    def of(self, method: str) -> Path:
        """The home of the run of that method."""
        (name,) = (name for name, run in self.runs.items() if run.spec.method == method)
        return self.study / name

    def saved(self, method: str) -> list[Path]:
        """The checkpoints of the run of that method, oldest first."""
        return saved(self.of(method))

    def metrics(self, method: str) -> list[dict[str, Any]]:
        """What the run of that method logged, without what the clock and the memory say."""
        return metrics(self.of(method))

    def assert_as(self, finished: Homes, *methods: str) -> None:
        """The runs of these methods, or all, ended bit for bit like those of `finished`."""
        for method in methods or ("teacher", "scd", "sct"):
            assert_equal_runs(self.of(method), finished.of(method))

    def copy(self, folder: Path) -> Homes:
        """The same study with all it has done, as if it had been run in `folder`."""
        study = folder / "runs" / "tiny"
        shutil.copytree(self.study, study)
        for config in study.glob("*/config.yaml"):
            config.write_text(config.read_text().replace(str(self.study), str(study)))
        return Homes(study, self.runs)

    def rewind(self, method: str) -> Path:
        """Take a finished run back to before it was sampled; its last checkpoint."""
        shutil.rmtree(self.of(method) / "samples")
        (self.of(method) / "scores.json").unlink()
        return self.saved(method)[-1]


def prepare_homes(path: Path) -> Homes:
    """Everything that a launch of this study file writes before its first run starts."""
    study = open_study(path)
    study.folder.mkdir(parents=True)
    prepared = prepare(study.config.data, study.config.launch.folder)
    cpu = torch.device("cpu")
    references = write_references(prepared, study.config.evaluation, StudyFolder(study.folder), cpu)
    runs = expand(study.config, study.family, prepared.data)
    write_homes(study, runs, prepared, references)
    (study.folder / "study.json").write_text(json.dumps({"runs": [run.name for run in runs]}))
    return Homes(study.folder, {run.name: run for run in runs})


@pytest.fixture(scope="session")
def homes_of() -> Callable[[Path], Homes]:
    """Prepare the study in a file without running it."""
    return prepare_homes


@pytest.fixture
def homes(tmp_path: Path, write_study: WriteStudy) -> Homes:
    """The tiny study, prepared but not run."""
    return prepare_homes(write_study(tmp_path))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, write_study: WriteStudy) -> Homes:
    """The tiny study after one uninterrupted launch: what every interrupted one must come to. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_study(folder)
    result = _forked(tmp_path_factory, "scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    study = folder / "runs" / "tiny"
    opened = open_study(path)
    prepared = prepare(opened.config.data, folder / "runs")
    runs = {run.name: run for run in expand(opened.config, opened.family, prepared.data)}
    return Homes(study, runs)


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, finished: Homes) -> dict[str, Path]:
    """Releases of the teacher and the sCD student of the finished study. Not to be changed."""
    from scaling.release.make import Options, release

    folder = tmp_path_factory.mktemp("released")
    return {m: release(finished.of(m), folder / m, Options(licence="CC-BY-4.0")).folder for m in ("teacher", "scd")}
