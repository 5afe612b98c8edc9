"""An analysis for the terminal: the answer first, then the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table

from scaling.analysis.powerlaw import PowerLaw
from scaling.analysis.summary import Analysis, show
from scaling.analysis.table import TEACHER, curve_label
from scaling.analysis.words import answer, constancy_words, held_words
from scaling.tables import add, right, table

MOST_ROWS = 60  # of a table; all are in the JSON


def render(analysis: Analysis) -> list[Table | str]:
    """The answer in sentences, then scores and ratios, ratio curves, laws, predictions; what is empty is left out."""
    tables = [
        _score_table(analysis),
        _ratio_table(analysis),
        _law_table(analysis),
        _budget_table(analysis),
        _prediction_table(analysis),
    ]
    return [*answer(analysis), *(made for made in tables if made.row_count)]


def _score_table(analysis: Analysis) -> Table:
    columns = ("method", *right(analysis.axis_label), "size", *right("score", "ratio to teacher"), "interval from")
    left_out = len(analysis.distances) - MOST_ROWS
    notes = [*analysis.notes[:MOST_ROWS], *([f"{left_out} more rows in --json"] if left_out > 0 else [])]
    made = table("Scores, and ratios to the teacher of the same size", columns, _sentence(notes) or None)
    points = {(curve.method, curve.steps, one.size): one for curve in analysis.ratios for one in curve.points}
    for one in analysis.distances[:MOST_ROWS]:
        point = points.get((one.method, one.steps, one.size))
        ratio = show(point.ratio) if point else "1" if one.method == TEACHER else "-"
        source = point.source if point else one.source
        name = curve_label(one.method, one.steps)
        add(made, name, f"{one.macs:.4g}", one.size, show(one.fd), ratio, source)
    return made


def _ratio_table(analysis: Analysis) -> Table:
    columns = ("method", *right("mean ratio", "sd over sizes", "trend"), "the same at every size?")
    notes = _sentence(note for curve in analysis.ratios for note in curve.notes)
    caption = f"trend: slope of the log ratio against log {analysis.axis_label}. {notes}"
    made = table("Is the ratio constant over sizes?", columns, caption)
    for curve in (*analysis.ratios, *analysis.contrasts):
        name = curve_label(curve.method, curve.steps)
        spread = "-" if curve.spread is None else f"{curve.spread:.3f}"
        trend = show(curve.trend) if curve.trend else "-"
        add(made, name, show(curve.mean), spread, trend, constancy_words(curve))
    return made


def _law_table(analysis: Analysis) -> Table:
    columns = (
        "method",
        *right("alpha", "scatter", "alpha with floor", "floor E", "largest, predicted from the others"),
        "warnings",
    )
    made = table(f"Power laws: score = A ({analysis.axis_label})^-alpha, and with a floor E added", columns)
    for law in analysis.laws:
        add(
            made,
            curve_label(law.method, law.steps),
            show(law.alpha),
            f"{law.scatter:.1%}" if law.dof else "-",
            *(("-", "-") if law.floor is None else (show(law.floor.alpha), show(law.floor.E))),
            held_words(law),
            "; ".join((*law.warnings, *_breaks(analysis, law))),
        )
    return made


def _breaks(analysis: Analysis, law: PowerLaw) -> Iterator[str]:
    for one in analysis.breaks:
        if (one.method, one.steps) == (law.method, law.steps) and one.found.found:
            found = one.found
            yield (
                f"broken at {found.at:.3g}: alpha {found.alpha_below:.3f} below, {found.alpha_above:.3f} above "
                f"(p = {found.p:.2g})"
            )


def _budget_table(analysis: Analysis) -> Table:
    columns = ("method", *right("budget", "larger, steps", "smaller, steps", "score of larger / smaller"), "larger is")
    made = table("At one sampling budget: a larger network in fewer steps, or a smaller one in more?", columns)
    for law in analysis.sampling:
        for one in law.choices:
            larger, smaller = f"{one.fewer_macs:.3g}, {one.fewer}", f"{one.more_macs:.3g}, {one.more}"
            add(made, law.method, f"{one.budget:.3g}", larger, smaller, show(one.ratio), one.fewer_is)
    return made


def _prediction_table(analysis: Analysis) -> Table:
    columns = ("method", "of", *right(analysis.axis_label, "times largest", "by the power law", "with a floor"))
    caption = "Intervals hold 95 % of single new runs, where the law holds that far."
    made = table("Predictions", columns, caption)
    for each in analysis.predictions:
        one = each.prediction
        floor = show(one.floor) if one.floor else "-"
        cells = (one.target, f"{one.macs:.4g}", f"{one.beyond:.2f}", show(one.power), floor)
        add(made, curve_label(each.method, each.steps), *cells)
    return made


def _sentence(notes: Iterable[str]) -> str:
    return "".join(f"{note}. " for note in dict.fromkeys(notes)).strip()
