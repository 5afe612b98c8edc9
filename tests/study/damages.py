"""Studies of which one file is damaged, and what status, report and run then make of them.

As a program (`python tests/study/damages.py TEMPLATE STATE SEED`) it hurts one file of a copy of a study and prints how
that ended, as JSON. Pictures of its reports are painted and not rendered, which would take longer than all else.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from data_pipeline.fashion import load_fashion
from models.encoders import get_encoder
from scaling.data.sources import pack_images
from tests.forked import Program
from tests.study.conftest import merge

KINDS = ("bit", "cut", "empty", "folder", "other")
STATES = ("finished", "half done")
FINE = ("right", "refused")
STUDENT = {"steps": 6, "batch": 16, "lr": 0.01, "teacher_ema": 0.1, "warmup_steps": 3}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "family": "nano",
    "sizes": ["xs"],
    "teacher": {"steps": 8, "batch": 16, "lr": 0.04},
    "scd": STUDENT,
    "sct": STUDENT,
    "ema": {"sigma_rel": [0.1]},
    "sampling": {"teacher_steps": 2, "teacher_ema": 0.1, "student_ema": 0.1, "batch": 100},
    "evaluation": {"samples": 100, "resamples": 20},
    "launch": {"device": "cpu", "threads": 1, "workers": 2, "log_every": 2, "checkpoint_seconds": 1e-9},
}


@dataclass(frozen=True)
class Outcome:
    """How one damage ended: right, refused, or a fault, with what was seen."""

    state: str
    file: str
    kind: str
    ending: str
    detail: str


def templates(folder: Path) -> None:
    """A finished and a half-done study, in a folder each, and the shards that both are of."""
    images, labels = load_fashion("test")
    data = {name: folder / "data" / name for name in ("source", "held_out")}
    for (name, to), part in zip(data.items(), (slice(0, 300), slice(300, 600)), strict=True):
        pack_images(images[part, ..., None], labels[part], get_encoder("fashion-s2d-v1"), to, name, 10)
    finished = folder / STATES[0]
    path = _write(finished, {name: str(to) for name, to in data.items()})
    program = Program(_empty(folder / "first"), str(Path(__file__)), ["--first", str(path)], dict(os.environ))
    _, said = program.communicate()
    assert program.returncode == 0, said
    shutil.copytree(finished, folder / STATES[1])
    _moved(folder / STATES[1], finished)
    _take_back(folder / STATES[1] / "runs" / "tiny")


def start(folder: Path, number: int, seed: int) -> Program:
    """Begin to hurt a copy of the study in one state or, every other time, the other; `outcome` waits for the end."""
    words = [str(folder), STATES[number % len(STATES)], f"{seed}-{number}"]
    return Program(_empty(folder / "lives" / words[2]), str(Path(__file__)), words, dict(os.environ))


def outcome(program: Program) -> Outcome:
    """How it ended; AssertionError where the trial itself failed."""
    said, errors = program.communicate()
    assert program.returncode == 0, errors
    shutil.rmtree(program.outputs[0].parent)
    return Outcome(**json.loads(said.splitlines()[-1]))


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _write(folder: Path, data: dict[str, str]) -> Path:
    path = folder / "study.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    content = merge(STUDY, {"data": data, "launch": {"folder": str(folder / "runs")}})
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _moved(folder: Path, origin: Path) -> None:
    """Let a copy of a study name itself where its origin is named."""
    for path in (folder / "study.yaml", *(folder / "runs" / "tiny").glob("*/config.yaml")):
        path.write_text(path.read_text().replace(str(origin), str(folder)))


def _take_back(study: Path) -> None:
    """To where the students are in training and the teacher is not yet judged."""
    for home in study.glob("s*-xs-*"):
        (home / "scores.json").unlink()
        shutil.rmtree(home / "samples")
        shutil.rmtree(max((home / "checkpoints").glob("step-*")))
    for home in study.glob("teacher-*"):
        (home / "scores.json").unlink()


def _scores(study: Path) -> dict[str, bytes]:
    """The scores of all runs."""
    return {path.parent.name: path.read_bytes() for path in study.glob("*/scores.json") if path.is_file()}


def _hurt(path: Path, kind: str, files: list[Path], rng: random.Random) -> None:
    content = path.read_bytes()
    if kind == "bit" and content:
        at = rng.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "other":
        path.write_bytes(rng.choice(files).read_bytes())


def _command(*words: str) -> tuple[int, str]:
    """A command's exit code and all that it said; a traceback is part of that."""
    from scaling.cli.main import app, run_cli

    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = run_cli(lambda: app(list(words)))
        except Exception:  # what a user would see as a traceback is what this looks for
            code = 1
            said.write(traceback.format_exc())
    logging.getLogger().removeHandler(handler)
    return code, said.getvalue()


def _judge(study: Path, path: Path, wanted: dict[str, bytes], yaml_file: Path) -> tuple[str, str]:
    """Run the three commands; how it ended."""
    said = logs = ""
    code = 0
    for words in (("study", "status"), ("study", "report"), ("study", "run")):
        code, text = _command(*words, str(yaml_file))
        logs = "".join(log.read_text(errors="replace") for log in study.glob("*/log.txt") if log.is_file())
        said += text
        if "Traceback" in text or "Traceback" in logs:
            return "traceback", f"{' '.join(words)}: {(text + logs)[-1500:]}"
        if code not in (0, 1, 2):
            return "exit code", f"{' '.join(words)}: {code}"
    found = _scores(study)
    wrong = [name for name, content in found.items() if content != wanted[name]]
    if code == 0:
        return ("right", "") if found == wanted else ("wrong scores", f"{wrong}: {said[-600:]}")
    if any(study / name not in path.parents for name in wrong):
        return "wrong scores", f"{wrong}: {said[-600:]}"
    named = path.name in said + logs or path.parent.name in said + logs
    return ("refused", "") if named else ("refused without a name", said[-600:])


def _one(templates: Path, state: str, seed: str) -> Outcome:
    """Copy the study, hurt one file, see what follows."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(templates / state, folder)
        yaml_file, study = folder / "study.yaml", folder / "runs" / "tiny"
        _moved(folder, templates / state)
        files = sorted(p for p in study.rglob("*") if p.is_file() and "report" not in p.parts and p.name != ".lock")
        path, kind = rng.choice(files), rng.choice(KINDS)
        _hurt(path, kind, files, rng)
        ending, detail = _judge(study, path, _scores(templates / STATES[0] / "runs" / "tiny"), yaml_file)
        return Outcome(state, str(path.relative_to(study)), kind, ending, detail)


def _painted(paint: Callable[[Figure], None], width: float, height: float) -> bytes:
    paint(Figure(figsize=(width, height)))
    return b"\x89PNG"


def main() -> None:
    """`--first STUDY` runs a study; else the trial that the words say."""
    from scaling.report import figures, grids

    figures.draw = grids.draw = _painted
    if sys.argv[1] == "--first":
        code, said = _command("study", "run", sys.argv[2])
        sys.stderr.write(said)
        sys.exit(code)
    print(json.dumps(asdict(_one(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))))


if __name__ == "__main__":
    main()
