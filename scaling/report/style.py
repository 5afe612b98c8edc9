"""How every figure looks: one colour a method, one marker a number of steps, quiet axes, ticks at the sizes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from scaling.analysis.table import TEACHER

# Okabe and Ito's colours: told apart with any common colour blindness, and in grey by the markers and dashes below.
COLOURS = {"teacher": "#333333", "scd": "#0072B2", "sct": "#D55E00", "vsd": "#009E73", "scd_vsd": "#CC79A7"}
OTHERS = ("#E69F00", "#56B4E9", "#8B5A2B", "#6A3D9A", "#B2A300", "#00798C", "#A50F15")
INK, QUIET, HAIR = "#1a1a1a", "#6b6b6b", "#d9d9d9"
DPI = 200
FEW_TICKS = 4  # on an axis as wide as half a page
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    # Names from a study are text, never TeX, whatever dollar signs they hold.
    "text.parse_math": False,
}


def colour(method: str, methods: Sequence[str]) -> str:
    """The colour of a method; one that has none of its own takes the next free one, in the order of `methods`."""
    if method in COLOURS:
        return COLOURS[method]
    others = sorted(set(methods) - set(COLOURS))
    return OTHERS[others.index(method) % len(OTHERS)]


@dataclass(frozen=True)
class Look:
    """Marker, line style and the filling of the marker (None: the colour of the method)."""

    marker: str
    linestyle: str
    face: str | None = None


def marker(method: str, steps: int) -> Look:
    """Diamonds on a solid line for teachers, open circles and dashes for one step, squares on a solid line for more."""
    if method == TEACHER:
        return Look("D", "-")
    return Look("o", "--", "white") if steps == 1 else Look("s", "-")


def shades(base: str, count: int) -> list[str]:
    """`count` tones of one colour from pale to dark: smallest to largest size."""
    middle = np.array(to_rgb(base))
    anchors = np.array([0.6 + 0.4 * middle, middle, 0.55 * middle])
    places = np.linspace(0, 2, count) if count > 1 else np.ones(1)
    channels = [np.interp(places, range(3), anchors[:, channel]) for channel in range(3)]
    return [to_hex((float(red), float(green), float(blue))) for red, green, blue in zip(*channels, strict=True)]


def draw(paint: Callable[[Figure], None], width: float, height: float) -> bytes:
    """PNG bytes of a figure of width x height inches, painted by `paint`; pyplot and its global state stay out."""
    return draw_all(paint, width, height, ())["png"]


def draw_all(
    paint: Callable[[Figure], None], width: float, height: float, vectors: Sequence[str] = ("svg", "pdf")
) -> dict[str, bytes]:
    """The same figure as "png" and, for a paper, as "svg" and "pdf", text as text; the same bytes each time."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "trigscale", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        paint(figure)
        stream = io.BytesIO()
        canvas.print_png(stream, metadata={"Software": None})  # savefig would draw all of it twice, for its layout
        drawn = {"png": stream.getvalue()}
        figure.set_layout_engine("none")  # places stay as they are; finding them anew is half of the time
        for kind in vectors:
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, metadata={"Date" if kind == "svg" else "CreationDate": None})
            drawn[kind] = stream.getvalue()
    return drawn


def macs_axis(axes: Axes, sizes: Mapping[str, float]) -> None:
    """A log axis of multiply-adds with one tick at each size, its name over its cost."""
    axes.set_xscale("log")
    ticks = sorted(sizes.items(), key=lambda item: item[1])
    low, high = ticks[0][1], ticks[-1][1]
    pad = max((high / low) ** 0.06, 1.1)
    axes.set_xlim(low / pad, high * pad**0.6)
    axes.xaxis.set_major_locator(FixedLocator([macs for _, macs in ticks]))
    axes.set_xticklabels([f"{name}\n{quantity(macs)}" for name, macs in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Size and multiply-adds (MACs) per forward pass")


def compute_axis(axes: Axes) -> None:
    """A log axis of multiply-adds with a few round ticks in words, as wide as what is painted."""
    axes.set_xscale("log")
    ticks = round_ticks(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // FEW_TICKS)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def log_values(axes: Axes, low: float, high: float) -> None:
    """A log axis of values from low to high (data limits) with plain numbers at round ticks, at most about eight."""
    bottom, top = low / (high / low) ** 0.05, high * (high / low) ** 0.05
    if top / bottom < 1.5:
        bottom, top = bottom / 1.15, top * 1.15
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator(round_ticks(bottom, top)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, evenly spread on a log axis: the finest of a few series with at most nine."""
    fine = (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    series = (fine, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.2, 1.5, 2, 3, 4, 6, 8))
    series += ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in series:
        ticks = [round(digit * 10.0**power, 12) for power in decades for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 9:
            return inside
    return inside[:: math.ceil(len(inside) / 9)]


@dataclass(frozen=True)
class EndLabel:
    """The name of a curve: where the curve ends (data units), what to write, in which colour."""

    x: float
    y: float
    text: str
    colour: str


def end_labels(axes: Axes, labels: Sequence[EndLabel], gap: float) -> None:
    """Name curves at the right edge, in the order of their ends, `gap` (share of the axes' height) or more apart.

    Call it last: the limits of both axes must stand.
    """
    ordered = sorted(labels, key=lambda label: (label.y, label.text))
    ends = axes.transAxes.inverted().transform(axes.transData.transform([(label.x, label.y) for label in ordered]))
    steps = gap * np.arange(len(ordered))
    # The nearest heights that keep the order and the gap, then moved inside the axes.
    nearest = rising((ends[:, 1] - steps).tolist())
    heights = np.clip(nearest, gap / 3, max(gap / 3, 1 - steps[-1])) + steps
    for (x, y), height, label in zip(ends, heights, ordered, strict=True):
        leader = {"color": label.colour, "linewidth": 0.6, "transform": axes.transAxes, "clip_on": False}
        axes.plot([x + 0.02, max(x + 0.02, 1.0), 1.04], [y, y, height], **leader)
        axes.annotate(label.text, (1.05, height), xycoords="axes fraction", color=label.colour, fontsize=8, va="center")


def rising(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The numbers [N] that never fall and are nearest to `values` by squares: neighbours that fall are pooled.

    Isotonic regression by pool-adjacent-violators; scipy.optimize, which has it too, takes half a second to import.
    """
    pools: list[tuple[float, int]] = []  # mean and number of neighbours that share it
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] >= mean:
            before, number = pools.pop()
            mean, count = (before * number + mean * count) / (number + count), number + count
        pools.append((mean, count))
    return np.repeat([mean for mean, _ in pools], [count for _, count in pools])


def quantity(value: float) -> str:
    """A count with three digits and, after a space that does not break, its prefix: 1234567 becomes "1.23 M"."""
    for power, prefix in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g}\u00a0{prefix}"
    return f"{value:.3g}"
