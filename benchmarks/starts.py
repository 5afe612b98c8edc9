"""How long does a command take from nothing to its answer: two builds in turns, each time a whole process.

    PYTHONPATH=. python benchmarks/starts.py OLD/.venv/bin/python NEW/.venv/bin/python [--rounds 7]

The arguments are the interpreters of two checkouts. The study is made up and finished: its report is drawn in full.
`libraries` is a process that imports what a command of the new build needs of other people's, and does nothing. Wall
seconds depend on what else the machine does, seconds of the processor (user and system) less. Prints a table and writes
benchmarks/results/starts.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from data_pipeline.files import write_text_atomic
from models.encoders import get_encoder
from scaling.data.sources import pack_images
from scaling.run.home import RunHome, StudyFolder
from scaling.run.spec import RunData, RunFile, dump_run
from scaling.study.expand import expand
from scaling.study.machine import machine
from scaling.study.open import open_study
from tests.report.conftest import write_study

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "starts.md"
CACHE = "cache"  # folder below that of a benchmark, in place of the user's
PLAN = str(ROOT / "configs" / "study" / "imagenet512.yaml")
FIRST, AGAIN = "study plan, own family, first", "study plan, own family, again"
RECIPE = {"steps": 100, "batch": 64, "lr": 0.01}
STUDY: dict[str, Any] = {
    "name": "made-up",
    "family": "nano",
    "sizes": ["xs", "s", "m", "l"],
    "teacher": RECIPE,
    "scd": RECIPE,
    "sct": RECIPE,
    "ema": {"sigma_rel": [0.05]},
    "sampling": {"teacher_ema": 0.05, "student_ema": 0.05},
}
READING = "numpy, yaml, pydantic, typer, rich.table"
LIBRARIES = {
    "fit": "numpy, scipy.special, pydantic, typer, rich.table",
    "study report": f"{READING}, scipy.special, jinja2, matplotlib.figure, matplotlib.backends.backend_agg",
}
LIBRARIES |= dict.fromkeys(("study status", "data info", "model show", "study plan imagenet512"), READING)
LIBRARIES |= {"study keys": "yaml, pydantic, typer, rich.table"}


class Times(NamedTuple):
    """Seconds of one process: on the wall, and of the processor."""

    wall: float
    cpu: float


def make_study(folder: Path, methods: Sequence[str]) -> Path:
    """A study file, and below runs/ what its runs of these methods would leave, for status and report to read."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "launch": {"folder": str(folder / "runs")}}))
    opened = open_study(path)
    opened.folder.mkdir(parents=True)
    write_study(opened.folder, methods)
    data = RunData(content_sha256="0" * 64, held_out_sha256="0" * 64, encoder=opened.config.data.encoder)
    specs = {(run.spec.method, run.spec.size): run.spec for run in expand(opened.config, opened.family, data)}
    for home in StudyFolder(opened.folder).homes():
        method, size, _ = home.name.split("-")
        write_config(home, RunFile.model_validate(_file(opened.config.name, specs[method, size], folder)))
    return path


def _file(study: str, spec: Any, folder: Path) -> dict[str, Any]:
    """config.yaml of a run whose inputs need not be there."""
    identity = {"study": study, "identity": spec.identity(), "spec": spec}
    return {**identity, "shards": folder, "references": {}, "networks": {}, "teacher_home": None, "launch": {}}


def write_config(home: RunHome, run: RunFile) -> None:
    """Replace the config.yaml of a run's home."""
    write_text_atomic(home.config, dump_run(run))


def make_shards(folder: Path) -> Path:
    """A folder of shards with a few images."""
    images, labels = np.zeros((20, 16, 16, 1), np.uint8), np.arange(20) % 10
    pack_images(images, labels, get_encoder("fashion-s2d-v1"), folder / "shards", "made-up", 10)
    return folder / "shards"


def make_family(folder: Path) -> Path:
    """A study of a network that is in no family of ours: img512 with a block less at each level."""
    content = yaml.safe_load((ROOT / "configs" / "family" / "img512.yaml").read_text())
    content["common"]["blocks_per_level"] -= 1
    (folder / "own.yaml").write_text(yaml.safe_dump(content))
    study = {**yaml.safe_load(Path(PLAN).read_text()), "family": str(folder / "own.yaml")}
    (folder / "own-study.yaml").write_text(yaml.safe_dump(study))
    return folder / "own-study.yaml"


def commands(folder: Path, methods: Sequence[str] = ("teacher", "scd", "sct")) -> dict[str, list[str]]:
    """Arguments of trigscale, by the name of the command; what they need is made in the folder."""
    study, shards = str(make_study(folder, methods)), str(make_shards(folder))
    return {
        "study status": ["study", "status", study],
        "study keys": ["study", "keys"],
        "data info": ["data", "info", shards],
        "model show": ["model", "show", "img512/s"],
        "study plan imagenet512": ["study", "plan", PLAN],
        "fit": ["fit", "published/scm-imagenet512.csv"],
        "study report": ["study", "report", study],
    }


def run(command: Sequence[str], folder: Path) -> Times:
    """One process from start to end; RuntimeError with its last words where it fails."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / CACHE), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # each interpreter knows its own checkout
    start = time.monotonic()
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: {(folder / 'errors').read_text()[-500:]}")
    return Times(time.monotonic() - start, used.ru_utime + used.ru_stime)


def compare(builds: dict[str, Path], rounds: int, folder: Path) -> dict[str, dict[str, list[Times]]]:
    """Times by command and build, in turns; a first round of each is not counted (disks, fonts, caches)."""
    cases = commands(folder)
    own = ["study", "plan", str(make_family(folder))]
    cases |= {FIRST: own, AGAIN: own}
    found: dict[str, dict[str, list[Times]]] = {}
    for round_ in range(rounds + 1):
        for name, arguments in cases.items():
            for build, python in builds.items():
                if name == FIRST:
                    shutil.rmtree(folder / CACHE / "trigscale", ignore_errors=True)
                taken = run([str(python.with_name("trigscale")), *arguments], folder)
                found.setdefault(name, {}).setdefault(build, []).extend([taken] * (round_ > 0))
            if name in LIBRARIES:
                taken = run([str(builds["new"]), "-c", f"import {LIBRARIES[name]}"], folder)
                found[name].setdefault("libraries", []).extend([taken] * (round_ > 0))
    return found


def table(found: dict[str, dict[str, list[Times]]]) -> list[str]:
    """Markdown: median (minimum) of each, and what the new build takes of the old one's processor time."""
    columns = [(build, what) for what in ("cpu", "wall") for build in ("old", "new", "libraries")]
    heads = [f"{build}, {what} s" for build, what in columns]
    lines = [f"| command | {' | '.join(heads)} | new / old | new / libraries |", "|---" * 9 + "|"]
    for name, by_build in found.items():
        cells = [_cell([getattr(each, what) for each in by_build.get(build, [])]) for build, what in columns]
        least = {build: min(each.cpu for each in taken) for build, taken in by_build.items()}
        over = f"{least['new'] / least['libraries']:.2f}" if "libraries" in least else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {least['new'] / least['old']:.2f} | {over} |")
    return lines


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f})" if values else "-"


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    builds = {name: Path.cwd() / getattr(options, name) for name in ("old", "new")}  # a venv's link is not followed
    with tempfile.TemporaryDirectory() as folder:
        lines = table(compare(builds, options.rounds, Path(folder)))
    facts = machine(torch.device("cpu"))
    head = [
        f"{facts['cpu']}, {facts['cores']} cores, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}; "
        f"{options.rounds} processes each in turns, one thread each: median (minimum); quotients of the minima of the "
        f"processor's seconds; load when it ended {os.getloadavg()[0]:.1f}",
        "",
    ]
    text = "\n".join([*head, *lines, ""])
    print(text)
    write_text_atomic(RESULT, text)


if __name__ == "__main__":
    main()
