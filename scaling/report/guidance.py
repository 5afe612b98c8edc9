"""Of a study with evaluation.guidance: each metric against the strength of guidance, by method (sCM, Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.analysis.table import curve_label
from scaling.config.metrics import METRICS, metric_label
from scaling.report.figures import Painted
from scaling.report.pictures import Picture, vector_picture
from scaling.report.record import FloatArray, Record
from scaling.report.style import HAIR, colour, log_values, marker
from scaling.run.home import StudyFolder
from scaling.run.schemas import GuidancePoint

WIDTH, HEIGHT = 3.1, 3.6  # inches: a panel, and the figure with its key


@dataclass(frozen=True)
class Sweep:
    """One curve: the values [seeds, K] of each metric by name, at the strengths [K]."""

    method: str
    steps: int
    size: str
    strengths: FloatArray
    values: dict[str, FloatArray]

    @property
    def label(self) -> str:
        """The method and its number of steps."""
        return curve_label(self.method, self.steps)

    @property
    def best(self) -> str:
        """The strength of the least value of the first metric, a distance, in words."""
        means = next(iter(self.values.values())).mean(0)
        at = int(means.argmin())
        return f"{self.label}: {means[at]:.4g} at {self.strengths[at]:g}"


def read_sweeps(study: Path, record: Record) -> list[Sweep]:
    """The curves of all runs that are done, in the order of the record. DamagedError."""
    groups: dict[tuple[str, str, int], list[list[GuidancePoint]]] = {}
    for run in record.runs:
        found = StudyFolder(study).home(run.name).read_guidance() if run.scores is not None else None
        points = sorted(found.points, key=lambda point: point.guidance) if found else []
        for steps in dict.fromkeys(point.steps for point in points):
            group = groups.setdefault((run.method, run.size, steps), [])
            group.append([point for point in points if point.steps == steps])
    return [
        Sweep(method, steps, size, np.array([point.guidance for point in seeds[0]]), _values(seeds))
        for (method, size, steps), seeds in groups.items()
    ]


def _values(seeds: Sequence[Sequence[GuidancePoint]]) -> dict[str, FloatArray]:
    names = [*seeds[0][0].metrics]
    return {name: np.array([[point.metrics[name].value for point in points] for points in seeds]) for name in names}


def guidance_pictures(sweeps: Sequence[Sweep], sizes: Sequence[str]) -> list[Picture]:
    """A figure a size, a panel a metric; none for other studies."""
    pictures = []
    for size in sizes:
        curves = [one for one in sweeps if one.size == size]
        if curves:
            metrics = [*curves[0].values]
            best = "; ".join(one.best for one in curves)
            pictures.append(
                vector_picture(
                    f"guidance-{size}" if len({one.size for one in sweeps}) > 1 else "guidance",
                    Painted(lambda figure, curves=curves: _paint(figure, curves), WIDTH * len(metrics), HEIGHT),
                    f"Quality against guidance, size {size}",
                    best,
                    "Means over seeds, and from the least to the largest of them. A teacher pays two evaluations for "
                    f"guidance, students take its strength as an input. Least {metric_label(metrics[0])}: {best}.",
                )
            )
    return pictures


def _paint(figure: Figure, curves: Sequence[Sweep]) -> None:
    metrics = [*curves[0].values]
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, name in zip(panels, metrics, strict=True):
        _panel(axes, name, curves)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)


def _panel(axes: Axes, name: str, curves: Sequence[Sweep]) -> None:
    methods = [one.method for one in curves]
    for one in curves:
        tone, look = colour(one.method, methods), marker(one.method, one.steps)
        values = one.values[name]
        axes.fill_between(one.strengths, values.min(0), values.max(0), color=tone, alpha=0.12, linewidth=0)
        axes.plot(
            one.strengths,
            values.mean(0),
            color=tone,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=4.5,
            markerfacecolor=look.face or tone,
            linewidth=1.3,
            label=one.label,
        )
    if METRICS[name].is_distance:
        ends = [end for one in curves for end in (one.values[name].min(), one.values[name].max())]
        log_values(axes, float(min(ends)), float(max(ends)))
    else:
        axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.set_xlabel("Guidance strength")
    axes.set_title(metric_label(name))
