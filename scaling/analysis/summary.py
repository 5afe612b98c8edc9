"""The whole analysis of a table: scores, ratios, laws, predictions; as an object and as plain types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np

from scaling.analysis.axis import AXES, default_axis, on_axis
from scaling.analysis.broken import Break, find_break
from scaling.analysis.joint import JointLaw, SamplingLaw, fit_joint, fit_sampling
from scaling.analysis.line import fit_line, points, powers
from scaling.analysis.powerlaw import PowerLaw, Prediction, fit_power_law
from scaling.analysis.ratios import RatioCurve, fit_curve, fit_ratios
from scaling.analysis.table import TEACHER, Row, TableError, check_rows, curve_label, curve_order
from scaling.analysis.uncertainty import Estimates, Interval, Observation, combine, divide, observe

INSIDE = ("fit", "profile", "draws")  # fields that the report needs and nobody prints


@dataclass(frozen=True)
class Distance:
    """The score of one (method, steps, size): over several seeds their geometric mean, with its interval."""

    method: str
    steps: int
    nfe: int
    size: str
    macs: float
    seeds: int
    fd: Interval
    source: str


@dataclass(frozen=True)
class Breaks:
    """The break of one curve."""

    method: str
    steps: int
    found: Break


@dataclass(frozen=True)
class CurvePrediction:
    """What one curve predicts of a new run."""

    method: str
    steps: int
    prediction: Prediction


@dataclass(frozen=True)
class Analysis:
    """Scores, ratio curves and laws in the order teacher, sCD, sCT, others; `notes` say what was left out.

    `axis` is what laws are fitted against, which every `macs` here is then; `stated` the relative noise of one score
    that the user assumes, None where the scatter was estimated. `contrasts` are the ratios of the first student to the
    others.
    """

    metric: str
    n: int | None
    axis: str
    stated: float | None
    distances: tuple[Distance, ...]
    ratios: tuple[RatioCurve, ...]
    contrasts: tuple[RatioCurve, ...]
    laws: tuple[PowerLaw, ...]
    joint: JointLaw | None
    sampling: tuple[SamplingLaw, ...]
    breaks: tuple[Breaks, ...]
    predictions: tuple[CurvePrediction, ...]
    notes: tuple[str, ...]

    @property
    def axis_label(self) -> str:
        """The axis in words."""
        return AXES[self.axis]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers; the end of an interval that is not known is None."""
        return plain(self)

    def ratio_curve(self, method: str, steps: int) -> RatioCurve | None:
        """The ratio curve of a (method, steps), None where no student met its teacher."""
        return next((curve for curve in self.ratios if (curve.method, curve.steps) == (method, steps)), None)

    def law(self, method: str, steps: int) -> PowerLaw | None:
        """The power law of a (method, steps), None where there is none."""
        return next((law for law in self.laws if (law.method, law.steps) == (method, steps)), None)


def analyse(
    rows: Sequence[Row],
    *,
    relative_noise: float | None = None,
    axis: str | None = None,
    hold_out: int = 1,
    targets: Mapping[str, float] | None = None,
) -> Analysis:
    """Analyse the rows of one metric; the order of rows does not matter and the same arguments give the same numbers.

    `relative_noise` is the standard deviation of one score that the user assumes; None: the scatter is estimated from
    seeds and residuals. `hold_out`: how many of the largest sizes are predicted from the others. `targets`: names and
    costs of new runs to predict. Raises TableError when rows contradict each other, and ValueError for an argument out
    of range.
    """
    if relative_noise is not None and not 0 < relative_noise < 1:
        raise ValueError(f"relative_noise is {relative_noise}: give a fraction between 0 and 1, such as 0.02")
    if not rows:
        raise TableError("no rows to analyse")
    axis = axis or default_axis(rows)
    rows = on_axis(rows, axis)
    check_rows(rows, axis)
    place = {key: curve_order(*key) for key in {(row.method, row.steps) for row in rows}}
    ordered = sorted(rows, key=lambda row: (place[row.method, row.steps], row.macs, row.size, row.seed))
    observed = [observe(row) for row in ordered]
    curves = _curves(ordered, observed, relative_noise)
    nfe = {(row.method, row.steps): row.nfe for row in ordered}
    laws = tuple(fit_power_law(*key, curve, hold_out) for key, curve in curves.items() if len(set(curve.macs)) > 1)
    breaks = {key: find_break(curve) for key, curve in curves.items()}
    largest = max(row.macs for row in ordered)
    return Analysis(
        metric=ordered[0].metric,
        n=ordered[0].n,
        axis=axis,
        stated=relative_noise,
        distances=tuple(one for key, estimates in curves.items() for one in _distances(key, estimates, nfe[key])),
        ratios=tuple(fit_ratios(ordered, observed, relative_noise)),
        contrasts=tuple(_contrasts(ordered, observed, relative_noise)),
        laws=laws,
        joint=fit_joint(curves),
        sampling=() if axis not in ("macs", "parameters") else tuple(_sampling(curves, nfe)),
        breaks=tuple(Breaks(*key, found) for key, found in breaks.items() if found is not None),
        predictions=tuple(
            CurvePrediction(law.method, law.steps, law.predict(name, macs, largest))
            for name, macs in (targets or {}).items()
            for law in laws
        ),
        notes=_notes(ordered, curves),
    )


def _curves(
    rows: Sequence[Row], observed: Sequence[Observation], stated: float | None
) -> dict[tuple[str, int], Estimates]:
    groups: dict[tuple[str, int], dict[str, list[Observation]]] = {}
    macs: dict[tuple[str, int], dict[str, float]] = {}
    for row, one in zip(rows, observed, strict=True):
        key = (row.method, row.steps)
        groups.setdefault(key, {}).setdefault(row.size, []).append(one)
        macs.setdefault(key, {})[row.size] = row.macs
    return {key: combine(group, macs[key], stated) for key, group in groups.items()}


def _distances(key: tuple[str, int], estimates: Estimates, nfe: int) -> list[Distance]:
    sloped = fit_line(estimates, powers(estimates)) if len(set(estimates.macs)) > 1 else None
    intervals, source = points(estimates, sloped)
    each = zip(estimates.sizes, estimates.macs.tolist(), estimates.seeds.tolist(), intervals, strict=True)
    return [Distance(*key, nfe, size, macs, seeds, log.exp(), source) for size, macs, seeds, log in each]


def _contrasts(rows: Sequence[Row], observed: Sequence[Observation], stated: float | None) -> list[RatioCurve]:
    """The first student over each other one in as many steps: the teacher that they share cancels."""
    students = list(dict.fromkeys(row.method for row in rows if row.method != TEACHER))
    if len(students) < 2:
        return []
    scores = {(r.method, r.steps, r.size, r.seed): (r, one) for r, one in zip(rows, observed, strict=True)}
    both = None if stated is None else stated * math.sqrt(2)
    found = []
    for other in students[1:]:
        for steps in sorted({row.steps for row in rows if row.method == other}):
            groups: dict[str, list[Observation]] = {}
            macs: dict[str, float] = {}
            for (method, number, size, seed), (row, one) in scores.items():
                match = scores.get((other, steps, size, seed))
                if (method, number) == (students[0], steps) and match:
                    groups.setdefault(size, []).append(divide(one, match[1]))
                    macs[size] = row.macs
            if groups:
                found.append(fit_curve(f"{students[0]} / {other}", steps, combine(groups, macs, both)))
    return found


def _sampling(curves: Mapping[tuple[str, int], Estimates], nfe: Mapping[tuple[str, int], int]) -> list[SamplingLaw]:
    methods = dict.fromkeys(method for method, _ in curves)
    laws = []
    for method in methods:
        of_method = {steps: curve for (name, steps), curve in curves.items() if name == method}
        laws.append(fit_sampling(method, of_method, {steps: nfe[method, steps] for steps in of_method}))
    return [law for law in laws if law is not None]


def _notes(rows: Sequence[Row], curves: Mapping[tuple[str, int], Estimates]) -> tuple[str, ...]:
    taught = {row.size for row in rows if row.method == TEACHER}
    notes = [
        f"no ratio for {curve_label(row.method, row.steps)}, size {row.size}, seed {row.seed}: its teacher is missing"
        for row in rows
        if taught and row.method != TEACHER and row.size not in taught
    ]
    notes += [
        f"no power law for {curve_label(*key)}: one size" for key, curve in curves.items() if len(set(curve.macs)) == 1
    ]
    return tuple(notes)


def plain(value: Any) -> Any:
    """Dataclasses as dicts, without what is inside; what is infinite or not a number as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int):
        return value
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in _shown_fields(type(value))}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return value


@cache
def _shown_fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind) if one.name not in INSIDE)


def show(interval: Interval) -> str:
    """An estimate with its interval, to the digits a few per cent of noise allow: "1.346 [1.312, 1.381]"."""
    if not interval.known:
        return f"{_digits(interval.value, abs(interval.value), interval.value)} [not known]"
    most = max(abs(interval.low), abs(interval.high))
    return (
        f"{_digits(interval.value, most, interval.high)} "
        f"[{_digits(interval.low, most, interval.high)}, {_digits(interval.high, most, interval.high)}]"
    )


def _digits(value: float, most: float, high: float) -> str:
    if most >= 1e5 or 0 < most < 1e-3:
        return f"{value:.4g}"
    return f"{value:.{3 if most < 10 else 2 if high < 100 else 1}f}"
