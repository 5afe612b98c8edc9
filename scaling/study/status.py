"""How far each run of a study is: from the files that it leaves and, of jobs on a cluster, from what SLURM knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from data_pipeline.text import printable
from scaling.config.validation import ConfigError
from scaling.run.home import DamagedError, RunHome, StudyFolder
from scaling.run.metrics import read_metrics
from scaling.run.schemas import RunScores
from scaling.run.spec import load_run
from scaling.study.submitted import ClusterError, cluster_errors, submissions_of
from scaling.tables import table
from slurm.client import Client, clean_environment
from slurm.redaction import Redactor
from slurm.states import Condition, State, conditions

STYLES = {"done": "green", "sampled": "cyan", "trained": "cyan", "training": "yellow", "waiting": "dim"}
STYLES |= {"running": "yellow", "failed": "red", "cancelled": "red"}
TAIL_LINES = 5  # of the log of a failed run
TAIL_BYTES = 20_000
UNKNOWN = Condition(State.RUNNING, "")


def status(folder: Path) -> list[dict[str, Any]]:
    """One entry a run: run, state, step, steps, images a second, seconds left, loss, scores by number of steps, damaged
    files in words; and `job`, what the cluster says, for runs that were submitted to one: state, id, reason, starts,
    and of a failed one the end of its log. Where the cluster cannot be asked the state of `job` is "unknown", with why.

    Raises ConfigError before any launch, and for a run whose config.yaml cannot be read.
    """
    homes = StudyFolder(folder).homes()
    if not homes:
        raise ConfigError(f"{folder}: no study was launched here: `trigscale study run` or `submit` does that")
    try:
        jobs = _jobs(folder)
    except ClusterError as error:  # what the runs' own files say stays true, also far from the cluster
        return [_unasked(_state(home), str(error)) for home in homes]
    return [_joined(_state(home), jobs.get(home.name), home) for home in homes]


def has_ended(home: RunHome) -> bool:
    """Whether a run is done, or its job on a cluster has ended otherwise; one on this machine may yet go on, and one
    on a cluster that does not answer."""
    if home.scores.exists():
        return True
    try:
        return not _jobs(home.path.parent).get(home.name, UNKNOWN).active
    except ClusterError:
        return False


def _jobs(folder: Path) -> dict[str, Condition]:
    """What the cluster knows of the jobs of a study, {} where none was submitted."""
    submissions = submissions_of(folder)
    if not submissions.folder.is_dir():
        return {}
    with cluster_errors():
        return conditions(submissions, Client(clean_environment()), submissions.places())


def _unasked(entry: dict[str, Any], reason: str) -> dict[str, Any]:
    """A run's entry where nothing is known of its job."""
    if entry["state"] == "done":
        return entry
    return {**entry, "job": {"state": "unknown", "id": "", "reason": reason, "starts": 0}}


def _joined(entry: dict[str, Any], job: Condition | None, home: RunHome) -> dict[str, Any]:
    """A run's entry with its job: its own files say that it is done, the cluster whether it runs, waits or failed."""
    if job is None:
        return entry
    plain = {"state": job.state.value, "id": job.id, "reason": job.reason, "starts": job.starts}
    if entry["state"] == "done":
        return {**entry, "job": {**plain, "state": State.DONE.value, "reason": ""}}
    if job.state is State.FAILED:
        plain |= {"log": log_tail(home.log)}
    begun = entry["state"] if job.state is State.RUNNING and entry["state"] != "waiting" else job.state.value
    return {**entry, "state": begun, "job": plain}


def log_tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, without secrets and what a terminal would obey."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    return printable(Redactor()(text)).splitlines()[-lines:]


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
    speed = last.get("images_per_second")
    entry = {"run": home.name, "state": state, "step": last["step"], "steps": steps, "images_per_second": speed}
    entry |= {"seconds_left": _left(last, steps) if state == "training" else None}
    return {**entry, "loss": last.get("loss"), "fd": fd, "damaged": damaged}


def _left(last: Mapping[str, Any], steps: int) -> float | None:
    """Seconds until the last step at the speed of the last line."""
    speed, step = last.get("images_per_second"), last["step"]
    return (steps - step) * last.get("images", 0) / step / speed if speed and step else None


def _name_of(scores: RunScores | None, sampled: bool, lines: int, trained: bool) -> str:
    """How far a run is, in a word."""
    if scores is not None:
        return "done"
    if sampled:
        return "sampled"
    return ("trained" if trained else "training") if lines else "waiting"


def status_table(name: str, states: Sequence[dict[str, Any]]) -> Table:
    """The states as a coloured table."""
    on_cluster = any("job" in entry for entry in states)
    headings = ("run", "state", "step", "images/s", "left", "loss", "FD by steps")
    made = table(f"study {name}", (*headings, *(("job", "starts", "why") if on_cluster else ())))
    for entry in states:
        loss = "" if entry["loss"] is None else f"{entry['loss']:.4f}"
        fd = ", ".join(f"{steps}: {value:.2f}" for steps, value in entry["fd"].items())
        state = f"[{STYLES[entry['state']]}]{entry['state']}[/]"
        speed = "" if entry["images_per_second"] is None else f"{entry['images_per_second']:.0f}"
        left = "" if entry["seconds_left"] is None else f"{entry['seconds_left']:.0f} s"
        cells = [escape(entry["run"]), state, f"{entry['step']}/{entry['steps']}", speed, left, loss, fd]
        if on_cluster:
            nowhere = "" if entry["state"] == "done" else "not submitted"
            job = entry.get("job", {"id": "", "starts": "", "reason": nowhere})
            cells += [job["id"], str(job["starts"]), escape(job["reason"])]
        made.add_row(*cells)
    return made


def last_words(states: Sequence[dict[str, Any]]) -> list[str]:
    """The ends of the logs of the runs that failed."""
    lines: list[str] = []
    for entry in states:
        if said := entry.get("job", {}).get("log"):
            lines += [f"{entry['run']}:", *(f"    {line}" for line in said)]
    return lines
