"""What becomes of a study whose files are damaged?

    PYTHONPATH=. python benchmarks/damage.py [--damages 300] [--seed 0] [--json FILE]

Each damage hits one file of a finished or of a half-done study, drawn at random: a bit is turned, the file is cut,
emptied, replaced by a folder or by the content of another file of the study. Then `study status`, `study report` and
`study run` follow, in this process but for the workers, and the study is compared with the undamaged one. Allowed are
the right scores at the end, or a refusal (exit code 2 or 1) that names the file; not a traceback, not other scores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import random
import shutil
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from scaling.cli.main import app, run_cli

KINDS = ("bit", "cut", "empty", "folder", "other")
STATES = ("finished", "half")
STUDENT = {"steps": 6, "batch": 16, "lr": 0.01, "teacher_ema": 0.1, "warmup_steps": 3}


@dataclass(frozen=True)
class Outcome:
    """How one damage ended: repaired, refused, harmless; or a fault, with what was seen."""

    state: str
    file: str
    kind: str
    ending: str
    detail: str


def study_file(folder: Path) -> Path:
    """A study of three short runs in `folder`."""
    content = {
        "name": "tiny",
        "family": "nano",
        "sizes": ["xs"],
        "teacher": {"steps": 8, "batch": 16, "lr": 0.04},
        "scd": STUDENT,
        "sct": STUDENT,
        "ema": {"sigma_rel": [0.1]},
        "sampling": {"teacher_steps": 2, "teacher_ema": 0.1, "student_ema": 0.1, "batch": 100},
        "evaluation": {"samples": 100, "resamples": 20},
        "launch": {"folder": str(folder / "runs"), "device": "cpu", "log_every": 2, "checkpoint_seconds": 1e-9},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(*words: str) -> tuple[int, str]:
    """A command's exit code and all that it said; a traceback is part of that."""
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


def scores(study: Path) -> dict[str, bytes]:
    """The scores of all runs."""
    return {path.parent.name: path.read_bytes() for path in study.glob("*/scores.json") if path.is_file()}


def half_done(study: Path) -> None:
    """Take a finished study back to where its students are in training and its teacher is not yet judged."""
    for home in study.glob("s*-xs-*"):
        (home / "scores.json").unlink()
        shutil.rmtree(home / "samples")
        last = max((home / "checkpoints").glob("step-*"))
        shutil.rmtree(last)
    for home in study.glob("teacher-*"):
        (home / "scores.json").unlink()


def damage(path: Path, kind: str, files: list[Path], rng: random.Random) -> None:
    """Hurt one file."""
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


def judge(study: Path, path: Path, wanted: dict[str, bytes], yaml_file: Path) -> tuple[str, str]:
    """Run the three commands; how it ended."""
    said = ""
    for words in (("study", "status"), ("study", "report"), ("study", "run")):
        code, text = command(*words, str(yaml_file))
        logs = "".join(log.read_text(errors="replace") for log in study.glob("*/log.txt") if log.is_file())
        said += text
        if "Traceback" in text or "Traceback" in logs:
            return "traceback", f"{' '.join(words)}: {(text + logs)[-600:]}"
        if code not in (0, 1, 2):
            return "exit code", f"{' '.join(words)}: {code}"
    found = scores(study)
    if code == 0:
        return ("right", "") if found == wanted else ("wrong scores", said[-600:])
    wrong = [name for name, content in found.items() if content != wanted[name]]
    if wrong and not all(study.joinpath(name) in path.parents for name in wrong):
        return "wrong scores", f"{wrong}: {said[-600:]}"
    named = path.name in said + logs or path.parent.name in said + logs
    return ("refused", "") if named else ("refused without a name", said[-600:])


def one(template: Path, state: str, wanted: dict[str, bytes], seed: int) -> Outcome:
    """Copy the study, hurt one file, see what follows."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(template, folder, dirs_exist_ok=True)
        yaml_file, study = study_file(folder), folder / "runs" / "tiny"
        for config in study.glob("*/config.yaml"):
            config.write_text(config.read_text().replace(str(template), str(folder)))
        files = sorted(p for p in study.rglob("*") if p.is_file() and "report" not in p.parts and p.name != ".lock")
        path, kind = rng.choice(files), rng.choice(KINDS)
        damage(path, kind, files, rng)
        ending, detail = judge(study, path, wanted, yaml_file)
        return Outcome(state, str(path.relative_to(study)), kind, ending, detail)


def run(damages: int, seed: int) -> list[Outcome]:
    """Damages of both states in turn."""
    with tempfile.TemporaryDirectory() as name:
        finished, half = Path(name) / "finished", Path(name) / "half"
        finished.mkdir()
        code, said = command("study", "run", str(study_file(finished)))
        assert code == 0, said
        wanted = scores(finished / "runs" / "tiny")
        shutil.copytree(finished, half)
        study_file(half)
        for config in (half / "runs" / "tiny").glob("*/config.yaml"):
            config.write_text(config.read_text().replace(str(finished), str(half)))
        half_done(half / "runs" / "tiny")
        states = [(finished, STATES[0]), (half, STATES[1])]
        return [one(*states[n % 2], wanted, seed * 1_000_003 + n) for n in range(damages)]


def main() -> None:
    """Print the table, and every fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    outcomes = run(given.damages, given.seed)
    counts = Counter((outcome.state, outcome.kind, outcome.ending) for outcome in outcomes)
    endings = sorted({outcome.ending for outcome in outcomes})
    print("| study | damage |", " | ".join(endings), "|")
    print("|---|---|" + "---|" * len(endings))
    for state in STATES:
        for kind in KINDS:
            print(f"| {state} | {kind} |", " | ".join(str(counts[state, kind, ending]) for ending in endings), "|")
    for outcome in outcomes:
        if outcome.ending not in ("right", "refused"):
            print(f"\n{outcome.ending}: {outcome.kind} of {outcome.file} ({outcome.state})\n{outcome.detail}")
    if given.json:
        given.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
