"""Of a study with metric truth: each network's errors by time, in figures and in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipeline.arrays import load_arrays
from scaling.analysis.table import TEACHER, method_label
from scaling.report.figures import Painted
from scaling.report.pictures import Picture, vector_picture
from scaling.report.record import FloatArray, Record
from scaling.report.style import colour, log_values, macs_axis
from scaling.run.home import StudyFolder

PARTS = {"velocity": "velocity", "to_truth": "to the truth", "to_teacher": "to the own teacher"}


@dataclass(frozen=True)
class TruthRecord:
    """The errors of one run: `times` [T], and by the names of PARTS errors [T], NaN where there is none."""

    method: str
    size: str
    macs: float
    times: FloatArray
    errors: dict[str, FloatArray]

    def total(self, part: str) -> float:
        """The root mean square over the times, NaN where there is none."""
        known = self.errors[part][np.isfinite(self.errors[part])]
        return math.sqrt(float(np.mean(known**2))) if len(known) else math.nan


def read_truths(study: Path, record: Record) -> list[TruthRecord]:
    """The errors of the runs that are judged by the truth; of several seeds the first. DataError."""
    found: dict[tuple[str, str], TruthRecord] = {}
    for run in record.runs:
        path = StudyFolder(study).home(run.name).truth
        if run.scores is not None and path.is_file() and (run.method, run.size) not in found:
            times, *errors = load_arrays(path, "times", *PARTS)
            named = dict(zip(PARTS, errors, strict=True))
            found[run.method, run.size] = TruthRecord(run.method, run.size, float(run.scores.macs), times, named)
    return [*found.values()]


def truth_table(truths: Sequence[TruthRecord]) -> list[dict[str, str]]:
    """One line a method and size."""
    return [
        {"method": method_label(one.method), "size": one.size}
        | {part: "–" if math.isnan(one.total(part)) else f"{one.total(part):.3g}" for part in PARTS}
        for one in truths
    ]


def truth_pictures(record: Record, truths: Sequence[TruthRecord]) -> list[Picture]:
    """Errors by time at the largest size, and over all times against the size; none for other studies."""
    if not truths:
        return []
    largest = max(truths, key=lambda one: one.macs).size
    words = "; ".join(f"{one.method} {one.size}: {one.total('to_truth'):.3g} to the truth" for one in truths)
    return [
        vector_picture(
            "truth-time",
            Painted(lambda figure: _by_time(figure, [one for one in truths if one.size == largest]), 9.0, 3.4),
            f"Errors by time, size {largest}",
            words,
            "Near t = 0 there is nothing to do, and near pi/2 everything.",
        ),
        vector_picture(
            "truth-size",
            Painted(lambda figure: _by_size(figure, truths), 9.0, 3.4),
            "Errors against multiply-adds",
            words,
            "The error to the truth holds the teacher's own and that of distillation.",
        ),
    ]


def _by_time(figure: Figure, truths: Sequence[TruthRecord]) -> None:
    for axes, part in zip(figure.subplots(1, len(PARTS)), PARTS, strict=True):
        for one in truths:
            axes.plot(one.times, one.errors[part], marker="o", markersize=3, **_look(one.method, truths))
        axes.set_xlabel("t, radians")
        _finish(axes, part, np.concatenate([one.errors[part] for one in truths]))
    _key(figure, truths)


def _by_size(figure: Figure, truths: Sequence[TruthRecord]) -> None:
    sizes = {one.size: one.macs for one in truths}
    for axes, part in zip(figure.subplots(1, len(PARTS)), PARTS, strict=True):
        for method in dict.fromkeys(one.method for one in truths):
            own = sorted((one for one in truths if one.method == method), key=lambda one: one.macs)
            totals = [one.total(part) for one in own]
            axes.plot([one.macs for one in own], totals, marker="o", markersize=3, **_look(method, truths))
        macs_axis(axes, sizes)
        axes.set_xlabel("Size and MACs")
        _finish(axes, part, np.array([one.total(part) for one in truths]))
    _key(figure, truths)


def _look(method: str, truths: Sequence[TruthRecord]) -> dict[str, Any]:
    return {"color": colour(method, [one.method for one in truths]), "linewidth": 1.2}


def _finish(axes: Axes, part: str, values: FloatArray) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    if len(known):
        log_values(axes, float(known.min()), float(known.max()))
    axes.set_title(f"Error, {PARTS[part]}")


def _key(figure: Figure, truths: Sequence[TruthRecord]) -> None:
    methods = sorted({one.method for one in truths}, key=lambda method: (method != TEACHER, method))
    for method in methods:
        figure.axes[0].plot([], [], label=method_label(method), **_look(method, truths))
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(methods), 6),
        frameon=False,
    )
