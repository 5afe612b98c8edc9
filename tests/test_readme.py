"""The commands of README.md and docs/ run as they are printed, in one folder where the files that they name exist."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.cli.main import app, run_cli
from scaling.config.families import CONFIGS
from scaling.data.sources import pack_images
from scaling.study.open import open_study
from scaling.training.ema import power_exponent
from scaling.weights.ema import LARGE_ERROR, fit_profile
from slurm.graph import JobGraph
from tests.models.edm2_files import TINY, random_state, write_network

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS.remove(ROOT / "docs" / "tutorial.md")  # which is walked from its first line to its last: tests/test_tutorial.py
COMMAND = re.compile(r"^    trigscale (.+?)(?: {3,}.*)?$", re.MULTILINE)
# Parts of commands that want more than this folder has; of these the words are parsed and nothing runs.
WANTS = {
    "imagenet512": "planned in tests/plan",
    "launch.devices=8": "eight devices",
    "teacher.weights=": "EDM2's weights with the encoder of the study; tests/study/test_weights.py starts from weights",
    "--updates 40000": "a run of 40,000 steps",
    "data encode": "a VAE and images; tests/data/test_encode.py",
    "data import-edm2": "a zip of EDM2's; tests/data/test_pack.py",
    "shards/photos": "what encode leaves; tests/data/test_encode.py",
    "study submit": "a cluster; tests/slurm",
    "study cancel": "a cluster; tests/slurm",
    "study rehearse": "kills of processes; tests/study/test_rehearse.py",
    "study logs": "the log of a run, which runs that share a process do not have; tests/study/test_rehearse.py",
    "ruler ": "a ruler is trained in tests/study/test_own_images.py",
    "--ruler FILE": "the same",
    "--search": "the same, of a student",
    "--seeds 0-49999": "50,000 samples",
    "compare A B": "two studies; tests/report",
    **dict.fromkeys(
        (
            f"study run {name}"
            for name in ("objectives-small", "multistep-small", "guidance-small", "scaling-small", "truth")
        ),
        "minutes of training; tests/study/test_variants.py expands every shipped study",
    ),
    "release push": "a hub; tests/release",
    "export STUDENT": "a minute of torch's tracing, and diffusers; tests/release",
    "demo ": "a browser; tests/demo",
    "doctor": "a checkout that git reads, which takes its time here; tests/study/test_words.py",
}


def printed() -> list[str]:
    """Every command once, in the order of the texts, README's first."""
    found = [command for path in TEXTS for command in COMMAND.findall(path.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(found))


def command(*words: str) -> int:
    """`trigscale WORDS`; its exit code."""
    return run_cli(lambda: app(list(words)))


class Never:
    """A stop request that nobody makes."""

    def within(self, seconds: float) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self) -> bool:
        return False


def run_here(graph: JobGraph, **_: Any) -> None:
    """The runs of a study one after the other in this process."""
    from scaling.work.stages import run

    for job in graph.jobs.values():
        run(Path(job.command[-1]), Never())  # pyright: ignore[reportArgumentType]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that the texts name; its fashion.yaml is the shipped one, cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scaling.study.run.run_local", run_here)
    none: dict[str, list[Any]] = {"curves": [], "overview": [], "training": [], "samples": []}
    monkeypatch.setattr("scaling.report.build.draw_pictures", lambda *_: none)  # tests/report draws
    images, labels = load_fashion("test")
    for name, part in (("train", slice(0, 300)), ("test", slice(300, 600))):
        np.savez(f"{name}.npz", images=images[part, ..., None], labels=labels[part])
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), Path("made", name), name, 10)
    shutil.copyfile("train.npz", "IMAGES.npz")
    short = yaml.safe_load((CONFIGS / "study" / "fashion.yaml").read_text())
    short |= {"sizes": ["xs"], "by_size": {}, "evaluation": {"samples": 100, "resamples": 20}}
    short["launch"] |= {"device": "cpu", "checkpoint_seconds": 60, "log_every": 1, "ema_snapshot_steps": 1}
    for method in ("teacher", "scd", "sct"):
        short[method] = {**short[method], "steps": 4, "batch": 16}
    Path("configs/study").mkdir(parents=True)
    Path("configs/study/fashion.yaml").write_text(yaml.safe_dump(short))
    data = {"source": "made/train", "held_out": "made/test"}
    Path("STUDY.yaml").write_text(yaml.safe_dump({**short, "name": "printed", "data": data}))
    write_network(Path("edm2-img512-s-2147483-0.130.pkl"), random_state(TINY))
    Path("PICKLE").symlink_to("edm2-img512-s-2147483-0.130.pkl")
    shutil.copyfile(ROOT / "scaling/analysis/published/scm-imagenet512.csv", "TABLE.csv")
    return tmp_path


def name_what_a_study_left() -> None:
    """HOME, SAMPLES.npz and REFERENCE.npz are those of the study that was run."""
    for name, pattern in {
        "HOME": "runs/printed/teacher-*",
        "SAMPLES.npz": "runs/printed/teacher-*/samples/*.npz",
        "REFERENCE.npz": "runs/printed/reference-*.npz",
    }.items():
        if not Path(name).is_symlink():
            (found,) = Path.cwd().glob(pattern)
            Path(name).symlink_to(found)


def test_commands_run_as_printed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran, failed = [], {}
    for text in printed():
        words = shlex.split(text)
        if words[0] == "data" and words[1] != "pack" and not Path("DIR/manifest.json").exists():
            shutil.rmtree("DIR", ignore_errors=True)
            shutil.copytree("made/train", "DIR")
        if ("--to" in words and words[-1] == "DIR") or words[:2] == ["model", "import-edm2"]:
            shutil.rmtree("DIR", ignore_errors=True)
        wanting = any(part in text for part in WANTS)
        code = command(*words, *(["--help"] if wanting else []))
        err = capfd.readouterr().err
        if code:
            failed[text] = err
        ran += [] if wanting else [text]
        if words[:2] == ["study", "run"] and Path("runs/printed").exists():
            name_what_a_study_left()
    assert failed == {}
    assert len(ran) >= 24
    assert all((place / made).exists() for made in ("FILE.png", "shards/train/manifest.json", "teacher-s/config.json"))


def test_readme_speaks_of_every_command() -> None:
    import typer

    groups = getattr(typer.main.get_command(app), "commands", {})
    inner = {name: getattr(group, "commands", [""]) for name, group in groups.items()}
    # `release make` is written without its second word.
    every = {f"{name} {one}".strip().removesuffix(" make") for name, ones in inner.items() for one in ones}
    told = {" ".join(text.split()[:2]) for text in COMMAND.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {one for one in every if not any(text.startswith(one) for text in told)} == set()


def test_the_default_study_keeps_what_readmes_average_needs() -> None:
    """--sigma-rel .07 of every run, after its last step: nearer than what is refused."""
    config = open_study(CONFIGS / "study" / "fashion.yaml").config
    every = config.launch.ema_snapshot_steps
    for size in config.sizes:
        for method in config.methods:
            steps = config.recipe(method, size).steps
            times = [*range(every, steps + 1, every), steps]
            stored = [(time, power_exponent(width)) for time in times for width in config.ema_of(size).sigma_rel]
            updates, exponents = (np.array(column, np.float64) for column in zip(*stored, strict=True))
            assert fit_profile(updates, exponents, steps, power_exponent(0.07))[1] < LARGE_ERROR
