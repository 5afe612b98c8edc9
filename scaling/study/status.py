"""How far each run of a study is, read from the files that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from scaling.config.validation import ConfigError
from scaling.run.home import DamagedError, RunHome, StudyFolder
from scaling.run.metrics import read_metrics
from scaling.run.schemas import RunScores
from scaling.run.spec import load_run
from scaling.tables import table

STYLES = {"done": "green", "sampled": "cyan", "trained": "cyan", "training": "yellow", "waiting": "dim"}


def status(folder: Path) -> list[dict[str, Any]]:
    """One entry a run: run, state, step, steps, loss, scores by number of steps, damaged files in words.

    Raises ConfigError before any launch, and for a run whose config.yaml cannot be read.
    """
    homes = StudyFolder(folder).homes()
    if not homes:
        raise ConfigError(f"{folder}: no study was launched here: `trigscale study run` does that")
    return [_state(home) for home in homes]


def _state(home: RunHome) -> dict[str, Any]:
    steps = load_run(home.path).spec.recipe.steps
    lines, bad = read_metrics(home.metrics)
    last = lines[-1] if lines else {"step": 0, "loss": None}
    damaged = [f"{home.metrics}: {bad} damaged lines, left out"] if bad else []
    try:
        scores = home.read_scores()
    except DamagedError as error:
        scores, damaged = None, [*damaged, str(error)]
    state = _name_of(scores, bool(home.sampled()), len(lines), last["step"] >= steps)
    fd = {str(score.steps): score.fd for score in scores.scores} if scores else {}
    entry = {"run": home.name, "state": state, "step": last["step"], "steps": steps, "loss": last.get("loss"), "fd": fd}
    return {**entry, "damaged": damaged}


def _name_of(scores: RunScores | None, sampled: bool, lines: int, trained: bool) -> str:
    """How far a run is, in a word."""
    if scores is not None:
        return "done"
    if sampled:
        return "sampled"
    return ("trained" if trained else "training") if lines else "waiting"


def status_table(name: str, states: Sequence[dict[str, Any]]) -> Table:
    """The states as a coloured table."""
    made = table(f"study {name}", ("run", "state", "step", "loss", "FD by steps"))
    for entry in states:
        loss = "" if entry["loss"] is None else f"{entry['loss']:.4f}"
        fd = ", ".join(f"{steps}: {value:.2f}" for steps, value in entry["fd"].items())
        state = f"[{STYLES[entry['state']]}]{entry['state']}[/]"
        made.add_row(escape(entry["run"]), state, f"{entry['step']}/{entry['steps']}", loss, fd)
    return made
