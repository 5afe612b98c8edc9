"""Two studies in one figure, and one over the other at every size that both have."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_pipeline.files import write_bytes_atomic
from scaling.analysis.axis import by_metric
from scaling.analysis.ratios import RatioCurve, fit_curve
from scaling.analysis.summary import Analysis, analyse, plain, show
from scaling.analysis.table import Row, TableError, curve_label, curve_order, load_scores
from scaling.analysis.uncertainty import Observation, combine, divide, observe
from scaling.analysis.words import constancy_words
from scaling.report.figures import HEIGHT, WIDTH, Painted, error_bars, value_limits
from scaling.report.findings import metric_label
from scaling.report.page import render_page
from scaling.report.pictures import Picture, vector_picture
from scaling.report.style import EndLabel, colour, end_labels, macs_axis, marker


@dataclass(frozen=True)
class Comparison:
    """Two studies: their names and analyses, and the ratio curves of the second over the first."""

    names: tuple[str, str]
    analyses: tuple[Analysis, Analysis]
    ratios: tuple[RatioCurve, ...]

    def sentences(self) -> list[str]:
        """What the second study has of the first, a sentence a curve that both have."""
        first, second = self.names
        said = [
            f"{curve_label(curve.method, curve.steps)}: {second} has {show(curve.mean)} times the score of {first}; "
            f"the same at every size: {constancy_words(curve)}."
            for curve in self.ratios
        ]
        return said or [f"{first} and {second} share no scores that differ: there is nothing to divide."]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"studies": list(self.names), "second_over_first": plain(self.ratios)}


def compare(first: Path, second: Path) -> Comparison:
    """Read and compare the folders of two studies. TableError where their metrics or N differ."""
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    tables = tuple(load_scores(folder) for folder in (first, second))
    kinds = [{(row.metric, row.n) for row in rows} for rows in tables]
    if kinds[0] != kinds[1]:
        said = [", ".join(f"{metric} at N = {n}" for metric, n in sorted(kind, key=str)) for kind in kinds]
        raise TableError(f"{names[0]} has {said[0]}, {names[1]} has {said[1]}: scores compare by one metric at one N")
    for rows in tables:
        by_metric(rows)
    return Comparison(names, (analyse(tables[0]), analyse(tables[1])), tuple(_ratios(*tables)))


def _ratios(first: Sequence[Row], second: Sequence[Row]) -> list[RatioCurve]:
    """The second over the first, paired by seed where both have it, for each curve at the sizes that both have."""
    scores = [_observations(rows) for rows in (first, second)]
    macs = {(row.method, row.size): row.macs for row in second}
    shared: dict[tuple[str, int], dict[str, list[Observation]]] = {}
    for key in scores[0].keys() & scores[1].keys():
        method, steps, size, _ = key
        shared.setdefault((method, steps), {}).setdefault(size, []).append(divide(scores[1][key], scores[0][key]))
    return [
        fit_curve(*key, combine(shared[key], {size: macs[key[0], size] for size in shared[key]}))
        for key in sorted(shared, key=lambda each: curve_order(*each))
        if not _copied(shared[key])
    ]


def _observations(rows: Sequence[Row]) -> Mapping[tuple[str, int, str, int], Observation]:
    return {(row.method, row.steps, row.size, row.seed): observe(row) for row in rows}


def _copied(groups: Mapping[str, Sequence[Observation]]) -> bool:
    """Whether both studies hold the very same scores, as where one was copied from the other."""
    return all(one.value == 0 for group in groups.values() for one in group)


def comparison_figure(found: Comparison, metric: str, n: int | None) -> Painted:
    """Scores of both studies against multiply-adds: the first in solid colours, the second pale with open markers."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        every = [one for analysis in found.analyses for one in analysis.distances]
        methods = [one.method for one in every]
        labels = []
        for which, (name, analysis) in enumerate(zip(found.names, found.analyses, strict=True)):
            for method, steps in dict.fromkeys((one.method, one.steps) for one in analysis.distances):
                points = [one for one in analysis.distances if (one.method, one.steps) == (method, steps)]
                x, y = np.array([one.macs for one in points]), np.array([one.fd.value for one in points])
                tone, look = colour(method, methods), marker(method, steps)
                style: dict[str, Any] = {
                    "color": tone,
                    "linestyle": ":" if which else look.linestyle,
                    "marker": look.marker,
                }
                face = "white" if which else tone
                bars = error_bars([one.fd for one in points]).clip(0)
                axes.errorbar(x, y, bars, **style, markerfacecolor=face, capsize=2)
                labels.append(EndLabel(float(x[-1]), float(y[-1]), f"{name}: {curve_label(method, steps)}", tone))
        macs_axis(axes, {one.size: one.macs for one in every})
        value_limits(axes, [one.fd for one in every])
        axes.set_ylabel(metric + (f" at N = {n:,}" if n else ""))
        end_labels(axes, labels, min(0.09, 1 / max(len(labels), 1)))

    return Painted(paint, WIDTH * 1.3, HEIGHT * 1.1)


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Write index.html, the figure as PNG, SVG and PDF, comparison.csv and comparison.json; returns index.html."""
    first = found.analyses[0]
    label = metric_label(first.metric)
    picture = vector_picture(
        "comparison",
        comparison_figure(found, label, first.n),
        f"{label} of both studies",
        "; ".join(found.sentences()),
        f"Solid and filled: {found.names[0]}. Dotted and open: {found.names[1]}. Bars: 95 % intervals.",
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = {picture.file: picture.png, **picture.vectors, "comparison.csv": _csv(found).encode()}
    files["comparison.json"] = (json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n").encode()
    files["index.html"] = _html(found, picture).encode()
    for name, content in files.items():
        write_bytes_atomic(folder / name, content)
    return folder / "index.html"


def _csv(found: Comparison) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "steps", "size", "macs", "ratio", "low", "high"])
    for curve in found.ratios:
        for one in curve.points:
            ends = [f"{end:.6g}" if math.isfinite(end) else "" for end in one.ratio.ends]
            writer.writerow([curve.method, curve.steps, one.size, f"{one.macs:.6g}", *ends])
    return stream.getvalue()


def _html(found: Comparison, picture: Picture) -> str:
    lines = [
        {"curve": curve_label(curve.method, curve.steps), "size": one.size, "ratio": show(one.ratio)}
        for curve in found.ratios
        for one in curve.points
    ]
    return render_page(Path(__file__).with_name("compare.html.j2"), found=found, picture=picture, lines=lines)
