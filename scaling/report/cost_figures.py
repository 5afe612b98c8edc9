"""Scores, and ratios to the teacher, against what they cost: training, and sampling (sCM, Figures 1 and 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipeline.files import write_bytes_atomic
from scaling.analysis.axis import cost_of
from scaling.analysis.table import TEACHER, Row, curve_label, curve_order, rows_of
from scaling.config.methods import PARTS
from scaling.config.metrics import metric_label
from scaling.report.figures import Painted
from scaling.report.pictures import Picture, vector_picture
from scaling.report.record import Record
from scaling.report.style import HAIR, INK, colour, compute_axis, log_values, marker, quantity

COSTS = {
    "macs": "MACs of one forward pass",
    "training": "MACs of the training",
    "chain": "MACs of the training, with that\nof all runs it started from",
    "evaluated": "Parameters × NFE of a sample",
    "image": "MACs of a sample, decoder included",
}
IN_REPORT = ("training", "chain", "evaluated", "image")
PANEL, HEIGHT, NAME = 3.1, 2.7, 2.0  # inches: of a panel, of a name in the legend
NAMED = 7  # points of the print that names a network


@dataclass(frozen=True)
class Point:
    """The score of one (method, steps, size), mean over seeds, its ratio to the teacher (nan: none), its costs."""

    method: str
    steps: int
    size: str
    score: float
    ratio: float
    costs: dict[str, float]


def cost_points(rows: Sequence[Row]) -> list[Point]:
    """The points of one metric's rows, in the order of curves and costs; a cost that nobody said is nan."""
    teachers = {(row.size, row.seed): row.fd for row in rows if row.method == TEACHER}
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.steps, row.size), []).append(row)
    points = []
    for (method, steps, size), group in groups.items():
        ratios = [row.fd / teachers.get((row.size, row.seed), math.nan) for row in group]
        costs = {axis: _chain(group[0], rows) if axis == "chain" else cost_of(group[0], axis) for axis in COSTS}
        ratio = 1.0 if method == TEACHER else _mean(ratios)
        points.append(Point(method, steps, size, _mean([row.fd for row in group]), ratio, costs))
    return sorted(points, key=lambda one: (*curve_order(one.method, one.steps), one.costs["evaluated"]))


def _mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _chain(row: Row, rows: Sequence[Row]) -> float:
    """The training of a run and of those that it started from, which a variant shares with its method."""
    parents = next((parts.parents for method, parts in PARTS.items() if method == row.method), (TEACHER,))
    total = cost_of(row, "training")
    for parent in parents:
        found = [one for one in rows if (one.method, one.size, one.seed) == (parent, row.size, row.seed)]
        total += cost_of(found[0], "training") if found else math.nan
    return total


def cost_figure(points: Sequence[Point], metric: str, axes: Sequence[str] = tuple(COSTS)) -> Painted | None:
    """Scores in the first row, ratios in the second where there are any; a column for each cost that two points say."""
    shown = [axis for axis in axes if sum(math.isfinite(one.costs[axis]) for one in points) > 1]
    rows = ["score", *(["ratio"] if any(math.isfinite(one.ratio) for one in points if one.method != TEACHER) else [])]
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(rows), len(shown), squeeze=False, sharey="row")
        for line, name in zip(panels, rows, strict=True):
            for axes, axis in zip(line, shown, strict=True):
                _panel(axes, points, axis, name)
            line[0].set_ylabel(metric if name == "score" else "Ratio to the own teacher")
        for axes, axis in zip(panels[-1], shown, strict=True):
            axes.set_xlabel(COSTS[axis])
        known = dict(zip(*reversed(_all_labels(panels)), strict=True))
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns, frameon=False)

    width = max(PANEL * len(shown), 2 * PANEL)
    columns = int(width / NAME)
    lines = -(-len({(one.method, one.steps) for one in points}) // columns)
    return Painted(paint, width, HEIGHT * len(rows) + 0.4 + 0.2 * lines)


def _all_labels(panels: np.ndarray) -> tuple[list, list[str]]:
    found = [axes.get_legend_handles_labels() for axes in panels.flat]
    return [one for handles, _ in found for one in handles], [one for _, labels in found for one in labels]


def _panel(axes: Axes, points: Sequence[Point], axis: str, value: str) -> None:
    """One row and column: a line a curve, single networks by name."""
    known = [one for one in points if math.isfinite(one.costs[axis]) and math.isfinite(getattr(one, value))]
    methods = [one.method for one in points]
    for (method, steps), curve in _curves(known):
        x, y = [one.costs[axis] for one in curve], [getattr(one, value) for one in curve]
        tone, look = colour(method, methods), marker(method, steps)
        alone = len([one for one in points if one.method == method]) == 1
        label = None if alone else curve_label(method, steps)
        axes.plot(
            x,
            y,
            color=INK if alone else tone,
            marker="x" if alone else look.marker,
            linestyle=look.linestyle,
            linewidth=1.2,
            markersize=4.5,
            markerfacecolor=look.face or tone,
            label=label,
        )
        if alone:
            place = {"xytext": (3, 3), "textcoords": "offset points"}
            axes.annotate(curve[0].size, (x[0], y[0]), fontsize=NAMED, color=INK, **place)
    compute_axis(axes)
    axes.grid(axis="x", color=HAIR, linewidth=0.4)
    values = [getattr(one, value) for one in points if math.isfinite(getattr(one, value))]
    log_values(axes, min(values), max(values))


def _curves(points: Sequence[Point]) -> Iterator[tuple[tuple[str, int], list[Point]]]:
    for key in dict.fromkeys((one.method, one.steps) for one in points):
        yield key, [one for one in points if (one.method, one.steps) == key]


def cost_pictures(record: Record) -> list[Picture]:
    """The figure of a study's report, without the costs that its curves have; none where no run says others.

    Nor of a study with one size, whose recipes stand below another at one cost.
    """
    if len({run.size for run in record.scores}) == 1:
        return []
    points = cost_points([row for run in record.scores for row in rows_of(run)])
    painted = cost_figure(points, metric_label(record.scores[0].metric), IN_REPORT) if points else None
    if painted is None:
        return []
    said = "; ".join(_words(one) for one in points)
    return [
        vector_picture(
            "costs",
            painted,
            "Quality against the compute of training and of sampling",
            said,
            "Training: of the run itself, and with the teacher (of sCD+VSD the sCD run too) that it started from. "
            "Sampling: parameters times evaluations, as papers print it, and the multiply-adds of one sample with its "
            "decoding.",
        )
    ]


def _words(point: Point) -> str:
    cost = point.costs["chain"]
    spent = f", {quantity(cost)} MACs of training in all" if math.isfinite(cost) else ""
    return f"{curve_label(point.method, point.steps)} {point.size}: {point.score:.4g}{spent}"


def write_figures(rows: Sequence[Row], metric: str, folder: Path, name: str) -> list[Path]:
    """NAME.png, .svg and .pdf of all costs that the rows say, in the folder; none where they say none twice."""
    painted = cost_figure(cost_points(rows), metric)
    if painted is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files = painted.files(name)
    for file, content in files.items():
        write_bytes_atomic(folder / file, content)
    return [folder / file for file in files]
