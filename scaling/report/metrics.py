"""All metrics of a study side by side: each value beside that of real images, and each distance over its floor."""

from __future__ import annotations

from typing import Any

from scaling.config.metrics import metric_label
from scaling.report.record import Record
from scaling.run.schemas import MetricScores, RunScores, StepScore

INFINITE = "at infinite N"


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys(one.metric for run in record.scores for one in run.metrics))


def metric_columns(record: Record) -> list[str]:
    """The heads of the columns: each metric, after the first its estimate for infinite N."""
    names = [metric_label(name) for name in _names(record)]
    return [*names[:1], INFINITE, *names[1:]] if names else []


def metric_table(record: Record) -> list[dict[str, Any]]:
    """One line for each run and number of steps, with a cell for each column."""
    return [
        {"run": run.run, "steps": score.steps, "cells": _cells(run, score.steps, _names(record))}
        for run in record.scores
        for score in run.scores
    ]


def _cells(run: RunScores, steps: int, names: list[str]) -> list[str]:
    by_name = {one.metric: one for one in run.metrics}
    cells = []
    for name in names:
        scores = by_name.get(name)
        score = scores and _of(scores, steps)
        cells.append("–" if scores is None or score is None else _cell(scores, score))
        if name == names[0]:
            infinite = score.infinite if score else None
            cells.append(f"{infinite.value:.3g} [{infinite.low:.3g}, {infinite.high:.3g}]" if infinite else "–")
    return cells


def _cell(scores: MetricScores, score: StepScore) -> str:
    error = f" ± {score.error:.2g}" if score.error else ""
    return f"{score.value:.4g}{error} ({scores.floor:.3g})"


def _of(scores: MetricScores, steps: int) -> StepScore | None:
    return next((score for score in scores.scores if score.steps == steps), None)


def ratio_table(record: Record) -> dict[str, Any]:
    """Distances over floors where there are two spaces or more: `columns`, and `lines` whose last cell is the mean."""
    names = list(dict.fromkeys(one.metric for run in record.scores for one in run.metrics if one.is_distance))
    lines = []
    for run in record.scores if len(names) > 1 else ():
        by_name = {one.metric: one for one in run.metrics}
        for score in run.scores:
            found = [(by_name[name], _of(by_name[name], score.steps)) for name in names if name in by_name]
            ratios = [each.value / scores.floor for scores, each in found if each is not None]
            if len(ratios) == len(names):
                cells = [f"{ratio:.3g}" for ratio in (*ratios, sum(ratios) / len(ratios))]
                lines.append({"run": run.run, "steps": score.steps, "cells": cells})
    return {"columns": [metric_label(name) for name in names], "lines": lines}
