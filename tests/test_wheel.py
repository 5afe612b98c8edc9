"""Installed from a wheel, far from any checkout: every file is there, and studies go by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
BESIDE = ("CHANGELOG.md", "CITATION.cff", "constraints.txt")
PACKAGES = ("kernels", "data_pipeline", "slurm", "models", "scaling", "configs")
# The source distribution first, and the wheel from what it holds: whatever it lacks, the wheel lacks.
SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
WHEEL = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def carried(root: Path) -> set[str]:
    """Every file of the packages below a folder, but what Python makes of them."""
    return {
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_packages_is_carried() -> None:
    """Found without building: the packages by their names, and all that is no code by its suffix."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found, suffixes = setuptools["packages"]["find"]["include"], ["*.py", *setuptools["package-data"]["*"]]
    assert [name for name in PACKAGES if not any(fnmatch(name, pattern) for pattern in found)] == []
    assert [path for path in carried(ROOT) if not any(fnmatch(path, suffix) for suffix in suffixes)] == []


def run(folder: Path, *command: str | Path) -> str:
    """What a command prints in that folder, with nothing of this environment but the path to programs."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of programs of a new environment that has a wheel of this checkout; its dependencies are ours.

    The wheel is made from the source distribution.
    """
    source, made, environment = tmp_path / "source", tmp_path / "made", tmp_path / "environment"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*BESIDE, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copyfile(ROOT / name, source / name)
    made.mkdir()
    run(source, sys.executable, "-c", SDIST, made)
    (archive,) = made.glob("trigscale-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(made, filter="data")
    unpacked = made / archive.name.removesuffix(".tar.gz")
    assert all((unpacked / name).read_bytes() == (ROOT / name).read_bytes() for name in BESIDE)
    run(unpacked, sys.executable, "-c", WHEEL, made)
    (wheel,) = made.glob("trigscale-*.whl")
    run(tmp_path, sys.executable, "-m", "venv", environment)
    run(tmp_path, environment / "bin" / "pip", "install", "--no-deps", "--no-index", "--quiet", wheel)
    shutil.rmtree(source)
    (packages,) = environment.glob("lib/python*/site-packages")
    assert carried(packages) == carried(ROOT)
    # Nothing of an editable installation comes along: Python reads no .pth file of a folder that one names.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return environment / "bin"


def test_the_version_is_one() -> None:
    """In pyproject.toml, in CITATION.cff and at the head of CHANGELOG.md."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    heads = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert heads[0].split()[1] == version


@pytest.mark.nightly
def test_a_study_runs_from_a_wheel(tmp_path: Path, installed: Path) -> None:
    program, folder = installed / "trigscale", tmp_path / "empty"
    folder.mkdir()
    assert run(folder, program, "--version").startswith("trigscale ")
    assert "teacher-xs-" in run(folder, program, "study", "plan", "fashion")
    assert "sCD" in run(folder, program, "fit", "published/scm-imagenet512.csv")
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(200) % 10)
    for name in ("train", "test"):
        run(folder, program, "data", "pack", "images.npz", "--to", name)
    short = (
        "sizes=[xs]",
        "methods=[teacher]",
        "by_size={}",
        "teacher.steps=2",
        "teacher.batch=8",
        "evaluation.samples=100",
    )
    own = ("data.source=train", "data.held_out=test", "sampling.teacher_steps=2", "launch.device=cpu")
    run(folder, program, "study", "run", "fashion", *short, *own, "launch.device=cpu")
    record: dict[str, Any] = json.loads((folder / "runs" / "fashion" / "environment.json").read_text())
    assert record["commit"] is None
    assert record["versions"]["trigscale"] == run(folder, program, "--version").split()[1]
    (scores,) = folder.glob("runs/fashion/teacher-xs-*/scores.json")
    assert json.loads(scores.read_text())["metrics"][0]["n"] == 100
    released = folder / "released"
    run(folder, program, "release", scores.parent, "--to", released, "--licence", "MIT")
    run(folder, program, "release", "verify", released)
    run(folder, installed / "python", released / "sample.py", "--to", "row.ppm", "--steps", "2")
    assert (folder / "row.ppm").read_bytes().startswith(b"P6 128 16 255\n")
