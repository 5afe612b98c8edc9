"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scaling.analysis.ratios import RatioCurve
from scaling.analysis.summary import Analysis
from scaling.analysis.table import TEACHER, curve_label
from scaling.analysis.uncertainty import Interval
from scaling.config.metrics import floor_words
from scaling.report.record import FloatArray, RunRecord
from scaling.report.style import (
    HAIR,
    QUIET,
    EndLabel,
    colour,
    compute_axis,
    draw,
    draw_all,
    end_labels,
    log_values,
    macs_axis,
    marker,
    quantity,
    shades,
)

WIDTH, HEIGHT = 4.8, 3.8
LABEL_GAP = 0.11


def distance_figure(analysis: Analysis, metric: str, n: int, floor: float) -> Painted:
    """Distance against multiply-adds, log-log: points with 95 % intervals, power laws with bands, sizes held out.

    The axis is that of the data. The floor, real against real, is a dotted line where it lies inside, else in words.
    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        keys = list(dict.fromkeys((one.method, one.steps) for one in analysis.distances))
        labels = [_distance_curve(axes, analysis, *key) for key in keys]
        macs_axis(axes, {one.size: one.macs for one in analysis.distances})
        value_limits(axes, [one.fd for one in analysis.distances])
        note = f"{floor_words(analysis.metric)} {floor:.3g} at N = {n:,}"
        if axes.get_ylim()[0] < floor:
            axes.axhline(floor, color=QUIET, linewidth=1.2, linestyle=":")
            place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
            axes.annotate(note, (0.01, floor), color=QUIET, fontsize=8, **place)
        else:
            axes.annotate(f"below: {note}", (0.01, 0.015), xycoords="axes fraction", color=QUIET, fontsize=8)
        axes.set_ylabel(f"{metric} at N = {n:,}")
        end_labels(axes, labels, LABEL_GAP * HEIGHT / height)

    height = _height(len({(one.method, one.steps) for one in analysis.distances}))
    return Painted(paint, WIDTH, height)


def _height(labels: int) -> float:
    """Inches that give so many names of curves their room."""
    return max(HEIGHT, LABEL_GAP * HEIGHT * labels + 0.8)


def sampling_figure(analysis: Analysis, metric: str, n: int) -> Painted:
    """Distance against the multiply-adds of one sample, all its evaluations: what quality costs when it is drawn."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        labels = []
        for method, steps in dict.fromkeys((one.method, one.steps) for one in analysis.distances):
            points = [one for one in analysis.distances if (one.method, one.steps) == (method, steps)]
            tone = colour(method, [one.method for one in analysis.distances])
            x = np.array([one.macs * one.nfe for one in points])
            y = np.array([one.fd.value for one in points])
            axes.plot(x, y, color=tone, linewidth=1.2, linestyle=marker(method, steps).linestyle)
            _points(axes, x, y, error_bars([one.fd for one in points]), method, steps, tone)
            labels.append(EndLabel(float(x[-1]), float(y[-1]), curve_label(method, steps), tone))
        compute_axis(axes)
        axes.set_xlabel("Multiply-adds (MACs) of one sample, all evaluations")
        value_limits(axes, [one.fd for one in analysis.distances])
        axes.set_ylabel(f"{metric} at N = {n:,}")
        end_labels(axes, labels, LABEL_GAP * HEIGHT / height)

    height = _height(len({(one.method, one.steps) for one in analysis.distances}))
    return Painted(paint, WIDTH, height)


@dataclass(frozen=True)
class Painted:
    """A figure that is drawn as PNG for the page, as SVG and PDF for a paper; width and height in inches."""

    paint: Callable[[Figure], None]
    width: float
    height: float

    def png(self) -> bytes:
        """For the page."""
        return draw(self.paint, self.width, self.height)

    def files(self, name: str) -> dict[str, bytes]:
        """NAME.png, NAME.svg and NAME.pdf."""
        return {f"{name}.{kind}": drawn for kind, drawn in draw_all(self.paint, self.width, self.height).items()}


def value_limits(axes: Axes, intervals: Sequence[Interval]) -> None:
    """A log axis about the values, wide enough for intervals but not for those that reach very far."""
    values = [one.value for one in intervals]
    low, high = min(values), max(values)
    room = (high / low) ** 0.5 * 1.3
    ends = [end for one in intervals for end in (one.low, one.high) if 0 < end < float("inf")]
    log_values(axes, max(min([low, *ends]), low / room), min(max([high, *ends]), high * room))


def error_bars(intervals: Sequence[Interval]) -> FloatArray:
    """Lengths of error bars [2, K]; 0 where nothing is known."""
    return np.array([[i.value - i.low, i.high - i.value] if i.known else [0.0, 0.0] for i in intervals]).T


def _distance_curve(axes: Axes, analysis: Analysis, method: str, steps: int) -> EndLabel:
    """Paint one curve and return the label of its right end."""
    points = [one for one in analysis.distances if (one.method, one.steps) == (method, steps)]
    tone = colour(method, [one.method for one in analysis.distances])
    look, label, end = marker(method, steps), curve_label(method, steps), points[-1].fd.value
    for law in analysis.laws:
        if (law.method, law.steps) == (method, steps):
            macs = np.geomspace(points[0].macs, points[-1].macs, 60)
            line, low, high = law.band(macs)
            axes.plot(macs, line, color=tone, linewidth=1.4, linestyle=look.linestyle)
            if np.isfinite(high).all():
                axes.fill_between(macs, low, high, color=tone, alpha=0.15, linewidth=0)
            for held in law.held_out:
                place = next(one.macs for one in points if one.size == held.size)
                axes.plot(place, held.predicted.value, marker="x", markersize=6, color=tone, zorder=4)
            label, end = f"{label}\nα = {law.alpha.value:.2f}", float(line[-1])
    x, y = np.array([one.macs for one in points]), np.array([one.fd.value for one in points])
    _points(axes, x, y, error_bars([one.fd for one in points]), method, steps, tone)
    return EndLabel(float(x[-1]), end, label, tone)


def _points(axes: Axes, x: FloatArray, y: FloatArray, bars: FloatArray, method: str, steps: int, tone: str) -> None:
    look = marker(method, steps)
    axes.errorbar(
        x,
        y,
        bars.clip(0),
        color=tone,
        linestyle="none",
        marker=look.marker,
        markersize=5.5,
        markerfacecolor=look.face or tone,
        elinewidth=1.1,
        capsize=2.5,
        zorder=3,
    )


def ratio_figure(analysis: Analysis) -> Painted:
    """Ratio to the own teacher against multiply-adds: points with 95 % intervals, joined by a line."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        methods = [curve.method for curve in analysis.ratios]
        labels = [_ratio_curve(axes, curve, colour(curve.method, methods)) for curve in analysis.ratios]
        teacher = colour(TEACHER, methods)
        axes.axhline(1, color=teacher, linewidth=1.2)
        macs_axis(axes, {one.size: one.macs for curve in analysis.ratios for one in curve.points})
        value_limits(axes, [Interval(1, 1, 1), *(one.ratio for curve in analysis.ratios for one in curve.points)])
        axes.set_ylabel("Ratio to the teacher of the same size")
        named = [*labels, EndLabel(axes.get_xlim()[1], 1.0, "own teacher", teacher)]
        end_labels(axes, named, LABEL_GAP * HEIGHT / height)

    height = _height(len(analysis.ratios) + 1)
    return Painted(paint, WIDTH, height)


def _ratio_curve(axes: Axes, curve: RatioCurve, tone: str) -> EndLabel:
    x, y = np.array([one.macs for one in curve.points]), np.array([one.ratio.value for one in curve.points])
    axes.plot(x, y, color=tone, linewidth=1.4, linestyle=marker(curve.method, curve.steps).linestyle)
    _points(axes, x, y, error_bars([one.ratio for one in curve.points]), curve.method, curve.steps, tone)
    text = f"{curve_label(curve.method, curve.steps)}\nmean {curve.mean.value:.2f}"
    return EndLabel(float(x[-1]), float(y[-1]), text, tone)


def training_figure(runs: Sequence[RunRecord], sizes: Sequence[str], methods: Sequence[str]) -> bytes:
    """Training curves of one method's runs: the loss and, where logged, the norm of the tangent; one tone a size.

    Faint: as logged; strong: the running mean over a fifteenth of the training.
    """
    keys = [key for key in ("loss", "tangent_norm") if any(has_curve(run, key) for run in runs)]
    tones = dict(zip(sizes, shades(colour(runs[0].method, methods), len(sizes)), strict=True))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
        for axes, key in zip(panels, keys, strict=True):
            curves = [_training_curve(axes, run, key, tones[run.size]) for run in runs if has_curve(run, key)]
            _frame(axes, curves, key)
        _size_key(panels[0], {size: tones[size] for size in sizes if any(run.size == size for run in runs)})
        counted = all("images" in run.metrics for run in runs if run.metrics)
        panels[-1].set_xlabel("Images seen" if counted else "Steps")

    return draw(paint, 3.6, 0.9 + 1.75 * len(keys))


def has_curve(run: RunRecord, key: str) -> bool:
    """Whether a finite number was logged under that key; a run that diverged at once has none."""
    return key in run.metrics and bool(np.isfinite(run.metrics[key]).any())


def _training_curve(axes: Axes, run: RunRecord, key: str, tone: str) -> FloatArray:
    """Paint one run's curve; returns the values after the first twentieth, which set the limits of the axis."""
    x, y = run.metrics.get("images", run.metrics["step"]), run.metrics[key]
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    width = max(len(y) // 15, 1)
    kernel = np.ones(width) / width
    axes.plot(x, y, color=tone, linewidth=0.5, alpha=0.3)
    if len(y) >= width:
        axes.plot(np.convolve(x, kernel, "valid"), np.convolve(y, kernel, "valid"), color=tone, linewidth=1.4)
    return y[len(y) // 20 :]


def _frame(axes: Axes, curves: Sequence[FloatArray], key: str) -> None:
    low, high = np.quantile(np.concatenate(curves), (0.005, 0.995))
    if key == "tangent_norm" and low > 0:
        log_values(axes, low, high)
    else:
        pad = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - pad, high + pad)
        axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    axes.set_ylabel({"loss": "Loss (adaptive weighting)", "tangent_norm": "Tangent norm"}[key])


def _size_key(axes: Axes, tones: dict[str, str]) -> None:
    for size, tone in tones.items():
        axes.plot([], [], color=tone, linewidth=2.5, label=size)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=len(tones),
        frameon=False,
        fontsize=8,
        handlelength=1.0,
        columnspacing=1.0,
        handletextpad=0.4,
    )
