"""How far each run of a study is, read from the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from scaling.config.validation import ConfigError
from scaling.run.spec import load_run
from scaling.tables import table
from scaling.training.observe.metrics import read_metrics

STYLES = {"done": "green", "sampled": "cyan", "trained": "cyan", "training": "yellow", "waiting": "dim"}


def status(folder: Path) -> list[dict[str, Any]]:
    """One entry a run: run, state, step, steps, loss, scores by number of steps. ConfigError before any launch."""
    path = folder / "study.json"
    if not path.exists():
        raise ConfigError(f"{folder}: no study was launched here: `trigscale study run` does that")
    return [_state(folder / name) for name in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def _state(home: Path) -> dict[str, Any]:
    steps = load_run(home).spec.recipe.steps
    metrics = read_metrics(home / "metrics.jsonl")
    last = metrics[-1] if metrics else {"step": 0, "loss": None}
    entry = {"run": home.name, "state": "waiting", "step": last["step"], "steps": steps, "loss": last["loss"], "fd": {}}
    if (home / "scores.json").exists():
        scores = json.loads((home / "scores.json").read_text(encoding="utf-8"))["scores"]
        return {**entry, "state": "done", "fd": {str(s["steps"]): s["fd"] for s in scores}}
    if list(home.glob("samples/steps-*.npz")):
        return {**entry, "state": "sampled"}
    if metrics and last["step"] >= steps:
        return {**entry, "state": "trained"}
    return {**entry, "state": "training" if metrics else "waiting"}


def status_table(name: str, states: Sequence[dict[str, Any]]) -> Table:
    """The states as a coloured table."""
    made = table(f"study {name}", ("run", "state", "step", "loss", "FD by steps"))
    for entry in states:
        loss = "" if entry["loss"] is None else f"{entry['loss']:.4f}"
        fd = ", ".join(f"{steps}: {value:.2f}" for steps, value in entry["fd"].items())
        state = f"[{STYLES[entry['state']]}]{entry['state']}[/]"
        made.add_row(escape(entry["run"]), state, f"{entry['step']}/{entry['steps']}", loss, fd)
    return made
