"""The whole analysis of a table: distances, ratios, power laws; as an object, as plain types, and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

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
    taught = {row.size for row in rows if row.method == TEACHER}
    notes = [
        f"no ratio for {curve_label(row.method, row.steps)}, size {row.size}, seed {row.seed}: its teacher is missing"
        for row in rows
        if row.method != TEACHER and row.size not in taught
    ]
    notes += [
        f"no power law for {curve_label(*key)}: one size" for key, curve in curves.items() if len(set(curve.macs)) == 1
    ]
    return tuple(notes)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name != "draws"}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def show(interval: Interval) -> str:
    """An estimate with its interval, to the digits a few per cent of noise allow: "1.346 [1.312, 1.381]"."""
    digits = 3 if max(abs(interval.low), abs(interval.high)) < 10 else 2 if interval.high < 100 else 1
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
