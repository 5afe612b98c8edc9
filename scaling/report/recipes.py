"""The figure of a study with one size: its recipes in rows, one below another (sCM, Figure 5)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaling.analysis.summary import Analysis
from scaling.analysis.table import curve_label
from scaling.report.figures import Painted, error_bars
from scaling.report.style import HAIR, colour, marker, round_ticks

WIDTH, ROW, FRAME = 7.2, 0.24, 0.8  # inches


def recipes_figure(analysis: Analysis, metric: str, n: int) -> Painted:
    """Scores with their 95 % intervals on a log axis, a row each recipe and number of steps, in the order of curves."""
    found = analysis.distances

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        bars = error_bars([one.fd for one in found])
        for row, (one, bar) in enumerate(zip(found, bars.T, strict=True)):
            tone, look = colour(one.method, [each.method for each in found]), marker(one.method, one.steps)
            style = {"marker": look.marker, "markerfacecolor": look.face or tone, "markersize": 5.5}
            length = bar.clip(0)[:, None]
            axes.errorbar(one.fd.value, row, xerr=length, color=tone, elinewidth=1.1, capsize=2.5, **style)
        axes.set_xscale("log")
        values = [one.fd.value for one in found]
        room = (max(values) / min(values)) ** 0.5 * 1.3
        axes.set_xlim(
            max(float((np.array(values) - bars[0]).min()), min(values) / room),
            min(float((np.array(values) + bars[1]).max()), max(values) * room),
        )
        axes.xaxis.set_major_locator(FixedLocator(round_ticks(*axes.get_xlim())))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_yticks(range(len(found)), [curve_label(one.method, one.steps) for one in found], fontsize=8)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(axis="both", color=HAIR, linewidth=0.5)
        axes.set_xlabel(f"{metric} at N = {n:,}")

    return Painted(paint, WIDTH, FRAME + ROW * len(found))
