"""What a study left in its folder, read with tolerance for runs that are not finished and with none for nonsense."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from data_pipeline.errors import UserError
from scaling.analysis.table import RunScores, TableError, check_comparable, curve_order, read_scores

M = TypeVar("M", bound=BaseModel)
FloatArray = npt.NDArray[np.float64]


class ReportError(UserError):
    """No report can be made of this folder; the message names the file, what is wrong and the remedy."""


class Environment(BaseModel):
    """environment.json of a study: what was run, with what, on what, and how long it took (seconds)."""

    model_config = ConfigDict(frozen=True)

    study: str
    started: str | None = None
    commit: str | None = None
    command: str | None = None
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    seeds: tuple[int, ...] = ()
    stages: dict[str, float] = {}
    wall_seconds: float | None = None
    data: dict[str, Any] = {}


class Timings(BaseModel):
    """timings.json of a run: seconds of each stage, peak memory in bytes, threads."""

    model_config = ConfigDict(frozen=True)

    train: float | None = None
    sample: float | None = None
    evaluate: float | None = None
    peak_memory_bytes: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Images:
    """Images uint8 [N, H, W] (grey) or [N, H, W, 3] with labels int64 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunRecord:
    """One run's files; what is not there yet is None or empty. `metrics` maps a key to its values [K], by step."""

    name: str
    method: str
    size: str
    seed: int | None
    scores: RunScores | None
    metrics: dict[str, FloatArray]
    timings: Timings | None
    config: str | None
    samples: dict[int, Images]


@dataclass(frozen=True)
class Record:
    """A study's folder: runs in the order method, multiply-adds, seed; `missing` says in words what is not there."""

    name: str
    environment: Environment | None
    runs: tuple[RunRecord, ...]
    sizes: tuple[str, ...]
    real: Images | None
    missing: tuple[str, ...]

    @property
    def scores(self) -> list[RunScores]:
        """The scores of the runs that have them."""
        return [run.scores for run in self.runs if run.scores is not None]


def read_study(folder: Path) -> Record:
    """Read the folder of a study.

    Raises ReportError when there is no run in it, or when a file that is there does not hold what it should.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; run the study first")
    missing: list[str] = []
    homes = [path for path in sorted(folder.iterdir()) if (path / "config.yaml").is_file() or _scores(path).is_file()]
    if not homes:
        raise ReportError(f"{folder}: no run has left anything here; run the study first")
    try:
        runs = [_read_run(home, missing) for home in homes]
        check_comparable([run.scores for run in runs if run.scores is not None])
    except TableError as error:
        raise ReportError(str(error)) from error
    environment = _read_model(folder / "environment.json", Environment, missing)
    real = _read_images(folder / "real.npz") if (folder / "real.npz").is_file() else None
    if real is None:
        missing.append("real.npz: no real images to stand beside the samples")
    sizes = _order_sizes(runs)
    runs.sort(key=lambda run: (*curve_order(run.method, 0), sizes.index(run.size), run.seed or 0, run.name))
    name = environment.study if environment else folder.resolve().name
    return Record(name, environment, tuple(runs), sizes, real, tuple(missing))


def _scores(home: Path) -> Path:
    return home / "scores.json"


def _read_run(home: Path, missing: list[str]) -> RunRecord:
    scores = read_scores(_scores(home)) if _scores(home).is_file() else None
    # The folder of a run is METHOD-SIZE-HASH; a run without scores has no other name tag here.
    method, _, rest = home.name.partition("-")
    size = rest.rpartition("-")[0] or rest
    samples = {}
    for path in sorted((home / "samples").glob("steps-*.npz")):
        steps = path.stem.removeprefix("steps-")
        if steps.isdecimal():
            samples[int(steps)] = _read_images(path)
    config = home / "config.yaml"
    run = RunRecord(
        name=home.name,
        method=scores.method if scores else method,
        size=scores.size if scores else size,
        seed=scores.seed if scores else None,
        scores=scores,
        metrics=_read_metrics(home / "metrics.jsonl"),
        timings=_read_model(home / "timings.json", Timings, []),
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        samples=samples,
    )
    parts = {"scores": scores, "training metrics": run.metrics, "timings": run.timings, "samples": samples}
    absent = [name for name, part in parts.items() if not part]
    if absent:
        missing.append(f"run {home.name}: no {', no '.join(absent)}")
    return run


def _read_model(path: Path, model: type[M], missing: list[str]) -> M | None:
    if not path.is_file():
        missing.append(f"{path.name}: not written yet")
        return None
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReportError(f"{path}: {key}: {first['msg']}; launch the study again to rewrite it") from error


def _read_metrics(path: Path) -> dict[str, FloatArray]:
    """The logged values by key, in order of step; after a resume the later line of a step counts."""
    if not path.is_file():
        return {}
    lines: dict[float, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    # What follows the last newline is a line that a killed run did not finish.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            lines[entry["step"]] = entry
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ReportError(f"{path}, line {number}: {line[:80]!r} is not a JSON object with a step") from error
    ordered = [lines[step] for step in sorted(lines)]
    keys = {key for entry in ordered for key in entry}
    return {key: np.array([_number(entry.get(key)) for entry in ordered]) for key in sorted(keys)}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _read_images(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ReportError(f"{path}: cannot be read as arrays images and labels ({error}); sample again") from error
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (grey or colour) or labels.shape != images.shape[:1]:
        raise ReportError(
            f"{path}: images {images.dtype}{list(images.shape)}, labels {list(labels.shape)}; "
            "expected uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3] and [N]"
        )
    return Images(images, labels)


def _order_sizes(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """All sizes by multiply-adds; those of which no run has scores come last."""
    macs = {run.size: run.scores.macs for run in runs if run.scores is not None}
    return tuple(sorted({run.size for run in runs}, key=lambda size: (macs.get(size, math.inf), size)))
