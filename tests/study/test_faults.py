"""Faults that only a running study meets: a full disk, foreign files, damage while it runs, a second launch."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_pipeline.reader import LatentReader
from scaling.data import sources as datasets
from scaling.run import locks
from scaling.training.checkpoints import checkpoint
from tests.study.trainers import saved, trainer_of

Fixture = Any  # conftest.py says what it is; its classes cannot be imported under --import-mode=importlib


def drop_last(homes: Fixture, method: str) -> int:
    """Take a finished run back to the checkpoint before its last; the size of one in bytes."""
    last = homes.rewind(method)
    size = sum(file.stat().st_size for file in last.iterdir())
    shutil.rmtree(last)
    return size


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A small file system; called with its size in bytes, also to resize it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: int) -> Path:
        options = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"no file system of its own for this test: {result.stderr.strip()}")
        return folder

    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    yield resize
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


FILLS_THE_DISK = """
import os, sys
from pathlib import Path
from scaling.work import worker
from scaling.training.trainer import Trainer

home, train_step = Path(sys.argv[1]), Trainer.train_step
os.dup2(os.open(home / "log.txt", os.O_WRONLY | os.O_TRUNC), 2)

def fill(trainer, wishes):
    ballast = os.open(home.parent / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(ballast, bytes(100_000)):
            pass
    except OSError:
        Trainer.train_step = train_step
    return train_step(trainer, wishes)

Trainer.train_step = fill
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_a_full_disk(
    tmp_path: Path, disk: Callable[[int], Path], finished: Fixture, write_study: Fixture, spawn: Fixture
) -> None:
    """First too small for one more checkpoint, then filled to the last byte by somebody else in a run's first step."""
    homes = finished.copy(disk(64_000_000))
    for method in ("scd", "sct"):
        shutil.rmtree(homes.of(method))
    size = drop_last(homes, "teacher")
    path = write_study(disk(64_000_000), methods=["teacher"])
    space = os.statvfs(path)
    disk((space.f_blocks - space.f_bfree) * space.f_frsize + size // 2)

    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 2
    last = homes.of("teacher") / "checkpoints" / "step-00000030"
    assert f"{last}/rank-00000.safetensors: No space left on device: make room there, then launch again" in result.err
    assert "once mended, the same command again continues" in result.err
    assert "Traceback" not in result.err
    assert sorted(path.name for path in last.parent.iterdir()) == ["newest", "step-00000028"]
    assert checkpoint.load(homes.saved("teacher")[-1]).step == 28

    disk(64_000_000)
    shutil.rmtree(last.parent)
    script = tmp_path / "fills_the_disk.py"
    script.write_text(FILLS_THE_DISK)
    assert spawn(script, homes.of("teacher")).wait().code == 2
    log = (homes.of("teacher") / "log.txt").read_text()
    assert "No space left on device: make room there, then launch again" in log
    assert list(last.parent.glob("*")) == []

    (homes.study / "ballast").unlink()
    result = spawn("scaling", "study", "run", path).wait()
    assert result.code == 0, result.err
    homes.assert_as(finished, "teacher")


LIMITED = """
import resource, sys
from scaling.work import worker
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
sys.exit(worker.main())
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow(tmp_path: Path, finished: Fixture, spawn: Fixture) -> None:
    """As under a quota, or on a file system with a largest size of files."""
    homes, script = finished.copy(tmp_path), tmp_path / "limited.py"
    size = drop_last(homes, "teacher")
    script.write_text(LIMITED)
    result = spawn(script, homes.of("teacher"), size // 2).wait()
    assert result.code == 2
    assert "step-00000030/rank-00000.safetensors: File too large: make room there, then launch again" in result.err
    assert "Traceback" not in result.err
    assert checkpoint.load(homes.saved("teacher")[-1]).step == 28
    result = spawn("scaling.work.worker", homes.of("teacher")).wait()
    assert result.code == 0, result.err
    homes.assert_as(finished, "teacher")


@pytest.mark.slow
def test_a_checkpoint_of_another_run(
    tmp_path: Path, homes: Fixture, write_study: Fixture, shards: dict[str, str], spawn: Fixture
) -> None:
    name = homes.of("teacher").name
    spec = homes.runs[name].spec
    other = spec.model_copy(update={"seed": 1})
    folder = homes.of("teacher") / "checkpoints"
    foreign = saved(trainer_of(other, Path(shards["source"]), None), folder).path
    before = {file.name: file.read_bytes() for file in foreign.iterdir()}
    result = spawn("scaling", "study", "run", write_study(tmp_path)).wait()
    # Its students are skipped, but all that failed was bad input.
    assert result.code == 2
    assert f"{foreign}: belongs to run {other.identity()}, not to {spec.identity()}" in result.err
    assert "Traceback" not in result.err
    assert {file.name: file.read_bytes() for file in foreign.iterdir()} == before
    assert homes.saved("teacher") == [foreign]
    assert not (homes.of("scd") / "checkpoints").exists()


def damage_unseen(shards: Path) -> None:
    """Flip a byte of the first sample in a way that neither size nor time shows."""
    reader = LatentReader(shards)
    path = shards / reader.manifest.shards[0].name
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[int(np.load(shards / "shard-000000.index.npy")["offset"][0])] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
def test_damage_that_shows_while_a_run_goes_on(
    tmp_path: Path, finished: Fixture, shards: dict[str, str], spawn: Fixture
) -> None:
    homes = finished.copy(tmp_path)
    home = homes.of("teacher")
    own = Path(shutil.copytree(shards["source"], tmp_path / "own"))
    config = home / "config.yaml"
    config.write_text(config.read_text().replace(shards["source"], str(own)))
    homes.rewind("teacher")
    shutil.rmtree(home / "checkpoints")
    damage_unseen(own)
    result = spawn("scaling.work.worker", home).wait()
    assert result.code == 2
    assert f"{own}/shard-000000.tar: sample 00000000 is altered" in result.err
    assert "copy the shard again" in result.err


@pytest.mark.slow
def test_damaged_samples_and_an_edited_config(
    tmp_path: Path, finished: Fixture, write_study: Fixture, spawn: Fixture
) -> None:
    homes = finished.copy(tmp_path)
    home = homes.of("teacher")
    (home / "scores.json").unlink()
    (samples,) = (home / "samples").iterdir()
    os.truncate(samples, samples.stat().st_size // 2)
    again = spawn("scaling.work.worker", home).wait()
    assert again.code == 0, again.err
    assert f"{samples} cannot be read as .npz of plain arrays" in again.err
    assert f"set aside as {samples.name}.damaged" in again.err
    (home / "samples" / f"{samples.name}.damaged").unlink()
    (home / "scores.json").unlink()

    config = home / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["spec"]["recipe"]["lr"] *= 2
    config.write_text(yaml.safe_dump(content))
    refused = spawn("scaling.work.worker", home).wait()
    assert refused.code == 2
    assert f"{config}: identity is {content['identity']} but its spec hashes to" in refused.err
    # A launch writes it anew from the study file.
    result = spawn("scaling", "study", "run", write_study(tmp_path)).wait()
    assert result.code == 0, result.err
    assert yaml.safe_load(config.read_text())["spec"]["recipe"]["lr"] == content["spec"]["recipe"]["lr"] / 2
    homes.assert_as(finished)


@pytest.mark.slow
def test_names_with_spaces_and_quotes(tmp_path: Path, write_study: Fixture, cli: Fixture, spawn: Fixture) -> None:
    name, folder = """it's "mine" & too""", tmp_path / """some one's "runs" """
    path = write_study(tmp_path, name=name, methods=["teacher"], launch={"folder": str(folder)})
    moved = path.rename(tmp_path / "a study's file.yaml")
    result = spawn("scaling", "study", "run", moved).wait()
    assert result.code == 0, result.err
    report = folder / name / "report" / "index.html"
    assert str(report) in result.out
    assert "it&#39;s &#34;mine&#34; &amp; too" in report.read_text()
    assert name in cli("study", "plan", moved).out
    status = cli("study", "status", moved)
    assert name in status.out
    assert "done" in status.out
    assert str(report) in cli("study", "report", moved).out


def test_two_studies_that_need_the_same_data_pack_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first; what a killed one left half-written is cleared."""
    waiting, packed = threading.Event(), threading.Event()

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        assert not packed.is_set(), "packed twice"
        packed.set()
        assert waiting.wait(60)
        return np.zeros((30, 16, 16), np.uint8), np.arange(30) % 10

    sleep = locks.time.sleep
    monkeypatch.setattr(datasets, "load_fashion", load)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: (waiting.set(), sleep(seconds)))
    (tmp_path / ".fashion-test-fashion-s2d-v1.0123456789ab.partial").mkdir()
    found: list[Path] = []

    def study() -> None:
        found.append(datasets.pack_fashion("test", "fashion-s2d-v1", tmp_path))

    threads = [threading.Thread(target=study) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "fashion-test-fashion-s2d-v1"] * 2
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "fashion-test-fashion-s2d-v1"}
    assert len(LatentReader(found[0])) == 30


def test_a_read_only_folder(tmp_path: Path, disk: Callable[[int], Path], write_study: Fixture, cli: Fixture) -> None:
    """A file system that was mounted, or turned, read-only: root, too, may write nothing there."""
    folder = disk(64_000_000)
    path = write_study(tmp_path, launch={"folder": str(folder / "runs")})
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    result = cli("study", "run", path)
    assert result.code == 2
    assert f"error: {folder}/runs: Read-only file system: make it writable or choose another folder" in result.err
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    assert list(folder.iterdir()) == []
