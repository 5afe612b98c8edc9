"""An analysis for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from scaling.analysis.summary import Analysis, show
from scaling.analysis.table import TEACHER, curve_label
from scaling.tables import add, right, table


def render(analysis: Analysis) -> list[Table]:
    """Tables for the terminal: ratios by size, ratio curves, power laws; those without rows are left out."""
    tables = [_ratio_table(analysis), _curve_table(analysis), _law_table(analysis)]
    return [made for made in tables if made.row_count]


def _ratio_table(analysis: Analysis) -> Table:
    columns = ("method", *right("MACs"), "size", *right("FD", "ratio"), "interval from")
    made = table("Ratio to the teacher of the same size", columns, _sentence(analysis.notes) or None)
    points = {(curve.method, curve.steps, one.size): one for curve in analysis.ratios for one in curve.points}
    for one in analysis.distances:
        point = points.get((one.method, one.steps, one.size))
        ratio = show(point.ratio) if point else "1" if one.method == TEACHER else "-"
        source = point.source if point else one.source
        name = curve_label(one.method, one.steps)
        add(made, name, f"{one.macs:.4g}", one.size, show(one.fd), ratio, source)
    return made


def _curve_table(analysis: Analysis) -> Table:
    columns = ("method", *right("mean ratio", "chi2", "dof", "p"), "verdict", *right("trend"))
    notes = _sentence(note for curve in analysis.ratios for note in curve.notes)
    caption = f"trend: slope of log ratio against log MACs. {notes}"
    made = table("Is the ratio constant over sizes?", columns, caption)
    for curve in analysis.ratios:
        test, name = curve.constancy, curve_label(curve.method, curve.steps)
        if test is None or curve.trend is None:
            add(made, name, show(curve.mean), "-", "-", "-", "one size: no test", "-")
            continue
        chi2, p = f"{test.chi2:.1f}", f"{test.p:.2g}"
        add(made, name, show(curve.mean), chi2, str(test.dof), p, test.verdict, show(curve.trend))
    return made


def _law_table(analysis: Analysis) -> Table:
    columns = ("method", *right("alpha", "A", "misfit p", "largest, predicted from the others"), "warnings")
    made = table("Power law FD = A MACs^-alpha", columns)
    for law in analysis.laws:
        held = law.held_out
        add(
            made,
            curve_label(law.method, law.steps),
            show(law.alpha),
            f"{law.A.value:.3g}",
            "-" if law.misfit.p is None else f"{law.misfit.p:.2g}",
            "-" if held is None else f"{held.size}: {held.error:+.1%}",
            "; ".join(law.warnings),
        )
    return made


def _sentence(notes: Iterable[str]) -> str:
    return "".join(f"{note}. " for note in dict.fromkeys(notes)).strip()
