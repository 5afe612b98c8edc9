"""What a study left in its folder, read with tolerance for runs that are not finished and with none for nonsense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from scaling.analysis.table import TableError, check_comparable, curve_order
from scaling.run.home import AGAIN, DamagedError, RunHome, StudyFolder
from scaling.run.metrics import Metrics, read_metrics
from scaling.run.samples import REAL, Samples, maker, read_samples
from scaling.run.schemas import Environment, RunScores, Timings

T = TypeVar("T")
SHOWN = 100  # samples of a run that a report may show: all of them may be 39 GB
FloatArray = npt.NDArray[np.float64]


class ReportError(UserError):
    """No report can be made of this folder; the message names the file, what is wrong and the remedy."""


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
        """The scores of the runs that were judged by a distance."""
        return [run.scores for run in self.runs if run.scores is not None and run.scores.head is not None]

    @property
    def done(self) -> int:
        """How many runs are done, judged or not."""
        return sum(run.scores is not None for run in self.runs)


def read_study(folder: Path) -> Record:
    """Read the folder of a study: the runs of its last launch; those of earlier configurations are named as left out.

    A damaged file of a run is as if it were missing, and said. Raises ReportError when there is no run in it, and
    DamagedError when what was launched cannot be read.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; run the study first")
    study, missing = StudyFolder(folder), list[str]()
    homes = [home for home in study.homes() if home.path.is_dir()]
    if not homes:
        raise ReportError(f"{folder}: no run has left anything here; run the study first")
    runs = [_read_run(home, missing) for home in homes]
    try:
        check_comparable([run.scores for run in runs if run.scores is not None and run.scores.head is not None])
    except TableError as error:
        raise ReportError(str(error)) from error
    environment = _tolerant(study.read_environment, missing)
    real = _tolerant(lambda: read_samples(study.real, REAL), missing) if study.real.exists() else None
    if real is None:
        missing.append("real.npz: no real images to stand beside the samples")
    missing.extend(_left_out(folder, {home.name for home in homes}))
    sizes = _order_sizes(runs)
    runs.sort(key=lambda run: (*curve_order(run.method, 0), sizes.index(run.size), run.seed or 0, run.name))
    name = (environment.study if environment else None) or folder.resolve().name
    return Record(name, environment, tuple(runs), sizes, real and _images(real), tuple(missing))


def _tolerant(read: Callable[[], T | None], missing: list[str]) -> T | None:
    """What `read` finds; None where it is damaged, which is noted."""
    try:
        return read()
    except UserError as error:
        missing.append(str(error))
        return None


def _left_out(folder: Path, launched: set[str]) -> Iterator[str]:
    """A note on the runs of earlier configurations, which the last launch did not ask for."""
    others = sorted(path.parent.name for path in folder.glob("*/config.yaml") if path.parent.name not in launched)
    if others:
        yield f"{len(others)} runs of an earlier configuration are kept and left out here: {', '.join(others)}"


def _read_run(home: RunHome, missing: list[str]) -> RunRecord:
    scores = _tolerant(home.read_scores, missing)
    # The folder of a run is METHOD-SIZE-HASH; a run without scores has no other name tag here.
    method, _, rest = home.name.partition("-")
    size = rest.rpartition("-")[0] or rest
    read = {
        n: _tolerant(partial(read_samples, path, maker(home.name, n), SHOWN), missing)
        for n, path in home.sampled().items()
    }
    samples = {steps: _images(found) for steps, found in read.items() if found is not None}
    metrics = read_metrics(home.metrics)
    if metrics.damaged:
        missing.append(f"{home.metrics}: {metrics.damaged} damaged lines")
    run = RunRecord(
        name=home.name,
        method=scores.method if scores else method,
        size=scores.size if scores else size,
        seed=scores.seed if scores else None,
        scores=scores,
        metrics=_columns(metrics),
        timings=_tolerant(home.read_timings, missing),
        config=_tolerant(partial(_text, home.config), missing),
        samples=samples,
    )
    parts = {"scores": scores, "training metrics": run.metrics, "timings": run.timings, "samples": samples}
    absent = [name for name, part in parts.items() if not part]
    if absent:
        missing.append(f"run {home.name}: no {', no '.join(absent)}")
    return run


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: is no text: {error}; {AGAIN}") from None


def _columns(metrics: Metrics) -> dict[str, FloatArray]:
    """The logged values by key, in order of step; NaN where a line has none."""
    keys = {key for entry in metrics.lines for key in entry}
    return {key: np.array([_number(entry.get(key)) for entry in metrics.lines]) for key in sorted(keys)}


def _number(value: int | float | None) -> float:
    return math.nan if value is None else float(value)


def _images(samples: Samples) -> Images:
    """Grey images without their channel."""
    grey = samples.images.shape[-1] == 1
    return Images(samples.images[..., 0] if grey else samples.images, samples.labels)


def _order_sizes(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """All sizes by multiply-adds; those of which no run has scores come last."""
    macs = {run.size: run.scores.macs for run in runs if run.scores is not None}
    return tuple(sorted({run.size for run in runs}, key=lambda size: (macs.get(size, math.inf), size)))
