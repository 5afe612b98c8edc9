"""The whole analysis of a table: distances, ratios, power laws; as an object, as plain types, and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from scaling.analysis.powerlaw import PowerLaw, fit_power_law
from scaling.analysis.ratios import RatioCurve, fit_ratios
from scaling.analysis.table import TEACHER, Row, TableError, check_rows, curve_label, curve_order
from scaling.analysis.uncertainty import Estimates, Interval, Observation, Resampling, combine, interval, observe


@dataclass(frozen=True)
class Distance:
    """The distance of one (method, steps, size): over several seeds their geometric mean, with its interval."""

    method: str
    steps: int
    nfe: int
    size: str
    macs: float
    seeds: int
    fd: Interval
    source: str


@dataclass(frozen=True)
class Analysis:
    """Distances, ratio curves and power laws in the order teacher, sCD, sCT, others; `notes` say what was left out."""

    relative_noise: float
    resamples: int
    seed: int
    distances: tuple[Distance, ...]
    ratios: tuple[RatioCurve, ...]
    laws: tuple[PowerLaw, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers; the draws are left out (the seed returns them)."""
        return _plain(self)

    def ratio_curve(self, method: str, steps: int) -> RatioCurve | None:
        """The ratio curve of a (method, steps), None where no student met its teacher."""
        return next((curve for curve in self.ratios if (curve.method, curve.steps) == (method, steps)), None)


def analyse(rows: Sequence[Row], *, relative_noise: float = 0.02, resamples: int = 2000, seed: int = 0) -> Analysis:
    """Analyse the rows of one table; the order of rows does not matter and the same arguments give the same numbers.

    `relative_noise` is the standard deviation of a distance that comes without seeds and without replicates.
    Raises TableError when rows contradict each other, and ValueError for an argument out of range.
    """
    if not 0 < relative_noise < 1:
        raise ValueError(f"relative_noise is {relative_noise}: give a fraction between 0 and 1, such as 0.02")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}: 95 % intervals need at least 100")
    if not rows:
        raise TableError("no rows to analyse")
    check_rows(rows)
    resampling = Resampling(relative_noise, resamples, seed)
    ordered = sorted(rows, key=lambda row: (*curve_order(row.method, row.steps), row.macs, row.size, row.seed))
    observed = {row: observe(row, resampling) for row in ordered}
    curves = _curves(ordered, observed, resampling)
    return Analysis(
        relative_noise=relative_noise,
        resamples=resamples,
        seed=seed,
        distances=tuple(one for key, estimates in curves.items() for one in _distances(key, estimates, ordered)),
        ratios=tuple(fit_ratios(ordered, observed, resampling)),
        laws=tuple(fit_power_law(*key, curve) for key, curve in curves.items() if len(set(curve.macs)) > 1),
        notes=_notes(ordered, curves),
    )


def _curves(
    rows: Sequence[Row], observed: Mapping[Row, Observation], resampling: Resampling
) -> dict[tuple[str, int], Estimates]:
    groups: dict[tuple[str, int], dict[str, list[Observation]]] = {}
    macs: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        key = (row.method, row.steps)
        groups.setdefault(key, {}).setdefault(row.size, []).append(observed[row])
        macs.setdefault(key, {})[row.size] = row.macs
    return {
        key: combine(group, macs[key], resampling.stream("fd", *key), resampling.resamples)
        for key, group in groups.items()
    }


def _distances(key: tuple[str, int], estimates: Estimates, rows: Sequence[Row]) -> list[Distance]:
    method, steps = key
    nfe = {row.size: row.nfe for row in rows if (row.method, row.steps) == key}
    draws = estimates.exp_draws()
    return [
        Distance(
            method=method,
            steps=steps,
            nfe=nfe[size],
            size=size,
            macs=float(estimates.macs[i]),
            seeds=estimates.seeds[i],
            fd=interval(np.exp(estimates.value[i]), draws[:, i]),
            source=estimates.sources[i],
        )
        for i, size in enumerate(estimates.sizes)
    ]


def _notes(rows: Sequence[Row], curves: Mapping[tuple[str, int], Estimates]) -> tuple[str, ...]:
    teachers = {(row.size, row.seed) for row in rows if row.method == TEACHER}
    notes = [
        f"no ratio for {curve_label(row.method, row.steps)}, size {row.size}, seed {row.seed}: its teacher is missing"
        for row in rows
        if row.method != TEACHER and (row.size, row.seed) not in teachers
    ]
    notes += [
        f"no power law for {curve_label(*key)}: one size" for key, curve in curves.items() if len(set(curve.macs)) == 1
    ]
    return tuple(notes)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name != "draws"}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def render(analysis: Analysis) -> list[Table]:
    """Tables for the terminal: ratios by size, ratio curves, power laws; those without rows are left out."""
    tables = [_ratio_table(analysis), _curve_table(analysis), _law_table(analysis)]
    return [table for table in tables if table.row_count]


def _ratio_table(analysis: Analysis) -> Table:
    table = _table("Ratio to the teacher of the same size", "method", ">MACs", "size", ">FD", ">ratio", "interval from")
    points = {(curve.method, curve.steps, one.size): one for curve in analysis.ratios for one in curve.points}
    for one in analysis.distances:
        point = points.get((one.method, one.steps, one.size))
        ratio = show(point.ratio) if point else "1" if one.method == TEACHER else "-"
        source = point.source if point else one.source
        name = curve_label(one.method, one.steps)
        _add_row(table, name, f"{one.macs:.4g}", one.size, show(one.fd), ratio, source)
    table.caption = _sentence(analysis.notes) or None
    return table


def _curve_table(analysis: Analysis) -> Table:
    table = _table(
        "Is the ratio constant over sizes?", "method", ">mean ratio", ">chi2", ">dof", ">p", "verdict", ">trend"
    )
    for curve in analysis.ratios:
        test, name = curve.constancy, curve_label(curve.method, curve.steps)
        if test is None or curve.trend is None:
            _add_row(table, name, show(curve.mean), "-", "-", "-", "one size: no test", "-")
            continue
        chi2, p = f"{test.chi2:.1f}", f"{test.p:.2g}"
        _add_row(table, name, show(curve.mean), chi2, str(test.dof), p, test.verdict, show(curve.trend))
    table.caption = "trend: slope of log ratio against log MACs. " + _sentence(
        note for curve in analysis.ratios for note in curve.notes
    )
    return table


def _law_table(analysis: Analysis) -> Table:
    title = "Power law FD = A MACs^-alpha"
    table = _table(title, "method", ">alpha", ">A", ">misfit p", ">largest, predicted from the others", "warnings")
    for law in analysis.laws:
        held = law.held_out
        _add_row(
            table,
            curve_label(law.method, law.steps),
            show(law.alpha),
            f"{law.A.value:.3g}",
            "-" if law.misfit.p is None else f"{law.misfit.p:.2g}",
            "-" if held is None else f"{held.size}: {held.error:+.1%}",
            "; ".join(law.warnings),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def _add_row(table: Table, *cells: str) -> None:
    # Names from a table are text, whatever brackets they hold.
    table.add_row(*(escape(cell) for cell in cells))


def _sentence(notes: Iterable[str]) -> str:
    return escape("".join(f"{note}. " for note in dict.fromkeys(notes)).strip())


def show(interval: Interval) -> str:
    """An estimate with its interval, to the digits a few per cent of noise allow: "1.346 [1.312, 1.381]"."""
    digits = 3 if max(abs(interval.low), abs(interval.high)) < 10 else 2 if interval.high < 100 else 1
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
