"""What the paper says of each technique, beside what this study saw: seen, not seen, or cannot be told.

A claim is looked for wherever a study has the two recipes that differ in what the claim is about, whatever they are
called: the recipes are read from the configuration of the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from scaling.analysis.contrast import contrast, indifferent
from scaling.analysis.summary import show
from scaling.analysis.table import Row, curve_label, rows_of
from scaling.config.metrics import METRICS
from scaling.config.recipes import LABELS, Method, StudentRecipe
from scaling.report.record import Record, RunRecord

SEEN, NOT_SEEN, UNTOLD = "seen at this scale", "not seen", "cannot be told"
ALIKE = 0.1  # two techniques serve alike if neither is worse by more than this share
# Keys that a run's configuration leaves out where they have these values.
DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in StudentRecipe.model_fields.items() if field.exclude_if is not None
}
FREE = ("derivative_step", "flow_map_same")  # keys that mean nothing where their technique is off


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was measured, and the verdict."""

    claim: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Statement:
    """Something said of two recipes, the first and the other: that it is the better one, or that both serve alike."""

    text: str
    alike: bool = False

    def verdict(self, low: float, high: float) -> str:
        """What the interval of the ratio of their scores, first over other, says of it."""
        if not self.alike:
            return SEEN if high < 1 else NOT_SEEN if low > 1 else UNTOLD
        inside, outside = low > 1 - ALIKE and high < 1 + ALIKE, high < 1 - ALIKE or low > 1 + ALIKE
        return SEEN if inside else NOT_SEEN if outside else UNTOLD


@dataclass(frozen=True)
class Curve:
    """A curve of a study by its recipe: the label of its runs, the method that it varies, the values of its keys."""

    label: str
    method: str
    recipe: dict[str, Any]

    def differs_in(self, other: Curve) -> set[str]:
        """The keys whose values are others."""
        keys = (self.recipe.keys() | other.recipe.keys()) - set(FREE)
        return {key for key in keys if self.recipe.get(key) != other.recipe.get(key)}


def claims(record: Record) -> list[Claim]:
    """The verdicts on the claims that this study has runs for, each for one and for two steps where it has both."""
    rows = [row for run in record.scores for row in rows_of(run)]
    curves = _curves(record)
    return [*_techniques(rows, curves), *_segments(rows, curves), *_fidelity(record)]


def _curves(record: Record) -> list[Curve]:
    """The students' curves, in the order of the record."""
    found: dict[str, Curve] = {}
    for run in record.runs:
        spec = _spec(run)
        if run.scores is not None and spec.get("method") in ("scd", "sct") and isinstance(spec.get("recipe"), dict):
            found.setdefault(run.method, Curve(run.method, spec["method"], DEFAULTS | spec["recipe"]))
    return [*found.values()]


def _spec(run: RunRecord) -> dict[str, Any]:
    """The specification in a run's configuration; empty where that is damaged, which the record says already."""
    try:
        content = yaml.safe_load(run.config or "")
    except yaml.YAMLError:
        return {}
    spec = content.get("spec") if isinstance(content, dict) else None
    return spec if isinstance(spec, dict) else {}


def _techniques(rows: Sequence[Row], curves: Sequence[Curve]) -> Iterator[Claim]:
    """Of pairs of curves that differ in one technique."""
    for one in curves:
        for other in curves:
            keys = one.differs_in(other) if one.method == other.method else set()
            said = _said(one.recipe, other.recipe, keys)
            for steps in (1, 2):
                if said is not None:
                    yield from _judged(rows, said, one.label, other.label, steps)


def _said(one: dict[str, Any], other: dict[str, Any], keys: set[str]) -> Statement | None:
    """What the paper says of the first of two recipes, which differ in these keys; None: nothing."""
    if keys == {"tangent"} and other["tangent"] == "raw":
        kind = {"normalize": "normalised", "clip": "clipped"}[one["tangent"]]
        return Statement(f"{kind} tangents are better than raw ones")
    if keys == {"tangent"} and (one["tangent"], other["tangent"]) == ("clip", "normalize"):
        return Statement(f"clipped tangents serve as well as normalised ones (within {ALIKE:.0%})", alike=True)
    if keys == {"adaptive_weighting"} and one["adaptive_weighting"]:
        return Statement("adaptive weighting is better than none")
    if keys == {"warmup_steps"} and one["warmup_steps"] > other["warmup_steps"] == 0:
        return Statement("tangent warmup is better than none")
    if keys == {"discrete_steps"} and one["discrete_steps"] is None:
        return Statement(f"continuous time is better than {other['discrete_steps']} discrete steps")
    if keys == {"discrete_double_every"} and one["discrete_double_every"] is None:
        return Statement("continuous time is better than discrete steps that come nearer (ECT)")
    return None


def _segments(rows: Sequence[Row], curves: Sequence[Curve]) -> Iterator[Claim]:
    """Of curves that differ in the number of segments alone, each against the next."""
    cut = sorted(
        (one for one in curves if one.recipe["discrete_steps"] is None), key=lambda one: one.recipe["segments"]
    )
    for fewer, more in ((a, b) for a in cut for b in cut if a.method == b.method):
        low, high = fewer.recipe["segments"], more.recipe["segments"]
        between = any(low < one.recipe["segments"] < high for one in cut)
        if fewer.differs_in(more) == {"segments"} and low < high and not between:
            said = Statement(f"{high} segments are better than {low}")
            yield from _judged(rows, said, more.label, fewer.label, high, low)


def _fidelity(record: Record) -> Iterator[Claim]:
    """What VSD gains and loses beside sCD, in one step and at the guidance that both are sampled with."""
    pair: tuple[Method, ...] = ("vsd", "scd_vsd")
    for method in pair:
        name, precision, recall = LABELS[method], _rows_by(record, "precision"), _rows_by(record, "recall")
        yield from _judged(precision, Statement(f"{name} is more precise than sCD"), "scd", method, 1)
        yield from _judged(recall, Statement(f"{name} has lower recall than sCD"), method, "scd", 1)


def _rows_by(record: Record, kind: str) -> list[Row]:
    """The values of the first metric of a kind, in the place of distances."""
    rows = []
    for run in record.scores:
        of_kind = [one for one in run.metrics if one.metric in METRICS and METRICS[one.metric].kind == kind]
        for score in of_kind[0].scores if of_kind else ():
            if score.value > 0:
                rows.append(Row(run.method, score.steps, score.nfe, run.size, run.seed, run.macs, score.value))
    return rows


def _judged(
    rows: Sequence[Row], said: Statement, one: str, other: str, steps: int, other_steps: int | None = None
) -> Iterator[Claim]:
    """The verdict on what is said of the two, from the interval of the mean ratio of their scores."""
    pair = (one, steps), (other, other_steps or steps)
    names = " / ".join(curve_label(*each) for each in pair)
    same, curve = indifferent(rows, *pair), contrast(rows, *pair)
    if same:
        measured = f"{names}: equal scores at {', '.join(same)}, where what they differ in was never used"
        yield Claim(said.text, measured, SEEN if said.alike else NOT_SEEN)
    if curve is not None:
        verdict = said.verdict(curve.mean.low, curve.mean.high) if curve.judges else UNTOLD
        yield Claim(said.text, f"{names}: {show(curve.mean)}", verdict)
