"""Where a released network stands: the scores of its study's runs beside its own, and the laws of their curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from scaling.analysis.summary import Analysis, Distance, analyse, show
from scaling.analysis.table import TEACHER, curve_label, rows_of
from scaling.analysis.uncertainty import Interval
from scaling.analysis.words import HOLD, constancy_words, listed
from scaling.config.metrics import metric_label
from scaling.report.record import Record, read_study


@dataclass(frozen=True)
class Place:
    """A study's record and analysis, and which run of it is released."""

    record: Record
    analysis: Analysis
    method: str
    size: str

    def curves(self) -> list[tuple[str, int]]:
        """The teacher's curve, then those of the released method."""
        keys = dict.fromkeys((one.method, one.steps) for one in self.analysis.distances)
        return [key for key in keys if key[0] in (TEACHER, self.method)]

    def table(self) -> list[list[str]]:
        """A heading and a line for each size: multiply-adds, then each curve's value with its interval and ratio."""
        curves, found = self.curves(), {(d.method, d.steps, d.size): d for d in self.analysis.distances}
        sizes = list(dict.fromkeys(one.size for one in sorted(self.analysis.distances, key=lambda one: one.macs)))
        lines = [["size", "MACs a pass", *(curve_label(*curve) for curve in curves)]]
        for size in sizes:
            cells = [self._cell(found.get((*curve, size))) for curve in curves]
            macs = next(one.macs for one in self.analysis.distances if one.size == size)
            marked = f"**{size}** (this one)" if size == self.size else size
            lines.append([marked, f"{macs:.4g}", *cells])
        return lines

    def _cell(self, one: Distance | None) -> str:
        if one is None:
            return "–"
        curve = self.analysis.ratio_curve(one.method, one.steps)
        ratio = next((p.ratio for p in curve.points if p.size == one.size), None) if curve else None
        return show(one.fd) + (f", {show(ratio)} of its teacher's" if ratio else "")

    def sentences(self) -> list[str]:
        """How the curve falls, whether the ratio is the same at every size, what the intervals hold."""
        first = self.record.scores[0]
        lines = []
        for method, steps in self.curves():
            law = self.analysis.law(method, steps)
            if law is not None:
                lines.append(
                    f"{curve_label(method, steps)}: {metric_label(first.metric)} falls as MACs^-α with α "
                    f"{show(law.alpha)}."
                )
            curve = self.analysis.ratio_curve(method, steps)
            if curve is not None and curve.constancy:
                told = constancy_words(curve) if curve.judges else "cannot be told from this study"
                lines.append(f"The ratio to the teacher has mean {show(curve.mean)}; the same at every size: {told}.")
        sources = dict.fromkeys(one.source for one in self.analysis.distances)
        return [*lines, f"Intervals (95 %) hold {listed([HOLD[source] for source in sources])}."]

    def facts(self) -> dict[str, Any]:
        """The same for machines."""
        curves = self.curves()
        return {
            "metric": self.analysis.metric,
            "n": self.analysis.n,
            "runs": [self._fact(one) for one in self.analysis.distances if (one.method, one.steps) in curves],
            "alpha": {curve_label(*key): _interval(law.alpha) for key in curves if (law := self.analysis.law(*key))},
        }

    def _fact(self, one: Distance) -> dict[str, Any]:
        curve = self.analysis.ratio_curve(one.method, one.steps)
        ratio = next((p.ratio for p in curve.points if p.size == one.size), None) if curve else None
        return {
            "method": one.method,
            "steps": one.steps,
            "nfe": one.nfe,
            "size": one.size,
            "macs": one.macs,
            "seeds": one.seeds,
            "value": _interval(one.fd),
            "ratio": _interval(ratio) if ratio else None,
            "interval_holds": HOLD[one.source],
        }


def _interval(interval: Interval) -> list[float] | float:
    """[value, low, high], or the value alone where nothing is known of its scatter."""
    return [interval.value, interval.low, interval.high] if interval.known else interval.value


def place_in(study: Path, method: str, size: str) -> Place | None:
    """The place of a run in the folder of its study; None where that cannot be read or is not judged."""
    try:
        record = read_study(study)
        rows = [row for run in record.scores for row in rows_of(run)]
        return Place(record, analyse(rows), method, size) if rows else None
    except UserError:
        return None
