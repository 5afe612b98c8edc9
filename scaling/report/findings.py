"""What a study found, in plain words made from its numbers, and what was expected beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.analysis.ratios import UNTOLD as NOT_TOLD
from scaling.analysis.ratios import RatioCurve
from scaling.analysis.summary import Analysis, Distance, show
from scaling.analysis.table import TEACHER, curve_label, method_label
from scaling.analysis.uncertainty import JUDGING
from scaling.analysis.words import HOLD, constancy_words, counted, listed, relation
from scaling.config.metrics import floor_words, metric_label
from scaling.config.sections import foreign_ruler
from scaling.report.record import Record
from scaling.report.style import quantity

# The quality a study of this toolkit is expected to reach before its ratios mean anything.
UNTRAINED_SHARE = 0.02
RATIO_LIMITS = {1: 2.0, 2: 1.6}
# Below this many floors, what finite N adds to both distances pulls their ratio visibly to one.
NEAR_FLOOR = 5.0
MET, HOLDS, MISSED, OPEN = "met", "not contradicted", "missed", "not measured"
UNTOLD = NOT_TOLD
HOLDS_NOT = UNTOLD  # a ratio whose trend may be 0 neither meets nor misses "not the same at every size"


@dataclass(frozen=True)
class Check:
    """An expectation, what was measured, and the verdict: met, not contradicted, missed, cannot be told, not measured.

    It is met or missed where the whole interval lies on one side, and cannot be told from the noise of samples alone.
    """

    expected: str
    measured: str
    verdict: str


def answer(record: Record, analysis: Analysis | None) -> list[str]:
    """Three sentences at most: what each student costs beside its teacher and whether that changes, how the teacher
    is.
    """
    if analysis is None:
        total = len(record.runs)
        if record.done:
            done = f"{record.done} of {counted(total, 'run')} done"
            return [f"{done}; the study is not judged (evaluation.metric: none)."]
        return [f"{counted(total, 'run')} started and none has scores yet: nothing can be said about quality."]
    methods = list(dict.fromkeys(curve.method for curve in analysis.ratios))
    return [*(_students(analysis, method) for method in methods), _teacher(record, analysis)]


def summarise(record: Record, analysis: Analysis | None) -> list[str]:
    """What stands below the answer: of what intervals are, what was run, what was expected and missed."""
    done, total = len(record.scores), len(record.runs)
    if analysis is None:
        return []
    macs = [one.macs for one in analysis.distances]
    methods = list(dict.fromkeys(method_label(run.method) for run in record.runs))
    scored = f"all {total} runs scored" if done == total else f"only {done} of {total} runs scored so far"
    seeds = counted(len({run.seed for run in record.scores}), "seed")
    sentences = [
        *_whose_ruler(record),
        f"{listed(methods)} in {counted(len(record.sizes), 'size')}, from {quantity(min(macs))} to "
        f"{quantity(max(macs))} multiply-adds (MACs) a forward pass, {seeds}, {scored}.",
        _what_intervals_hold(analysis),
    ]
    found = checks(record, analysis)
    missed = [check for check in found if check.verdict == MISSED]
    if missed:
        sentences.append("Missed: " + "; ".join(f"{one.expected} ({one.measured})" for one in missed) + ".")
    elif all(check.verdict in (MET, HOLDS) for check in found):
        sentences.append("Nothing that was expected was missed" + ("." if done == total else " so far."))
    untold = sum(check.verdict == UNTOLD for check in found)
    if untold:
        sentences.append(f"Of {counted(len(found), 'expectation')} {untold} cannot be told from this study.")
    return sentences


def _what_intervals_hold(analysis: Analysis) -> str:
    """Of what the intervals of a report are."""
    sources = dict.fromkeys(one.source for one in analysis.distances)
    return f"Intervals (95 %) hold {listed([HOLD[source] for source in sources])}."


def _whose_ruler(record: Record) -> list[str]:
    """A warning where images are judged by features of other images."""
    source = record.environment.data.get("dataset") if record.environment else None
    said = foreign_ruler(str(source), record.scores[0].metric) if source else None
    return [f"{said}."] if said else []


def _teacher(record: Record, analysis: Analysis) -> str:
    best = largest_teacher(analysis)
    if best is None:
        return "No teacher has scores yet, so there are no ratios."
    first = record.scores[0]
    text = f"The largest teacher ({best.size}) reaches {metric_label(first.metric)} {show(best.fd)} at N = {first.n:,}"
    untrained = untrained_distance(record, best)
    text += f", against {untrained:.4g} of the untrained network" if untrained else ""
    return f"{text}; {floor_words(first.metric)} {first.floor:.3g} at that N."


def _students(analysis: Analysis, method: str) -> str:
    curves = [curve for curve in analysis.ratios if curve.method == method]
    means = listed([f"{show(curve.mean)} in {counted(curve.steps, 'step')}" for curve in curves])
    text = f"{method_label(method)} has its own teacher's distance times {means}"
    told = [f"in {counted(curve.steps, 'step')} {_constancy(curve)}" for curve in curves if curve.constancy]
    return f"{text}. The same at every size? {'; '.join(told).capitalize()}." if told else f"{text}."


def _constancy(curve: RatioCurve) -> str:
    return constancy_words(curve) if curve.judges else UNTOLD


def checks(record: Record, analysis: Analysis) -> list[Check]:
    """The expectations of a study, in the order of the chain: teacher, second step, ratios, constancy."""
    return [
        _check_teacher(record, analysis),
        _check_second_step(analysis),
        *(_check_ratio(analysis, steps, limit) for steps, limit in RATIO_LIMITS.items()),
        *(_check_constancy(analysis, "scd", steps, constant=True) for steps in RATIO_LIMITS),
        *(_check_constancy(analysis, "sct", steps, constant=False) for steps in RATIO_LIMITS),
    ]


def _check_teacher(record: Record, analysis: Analysis) -> Check:
    expected = f"largest teacher at most {100 * UNTRAINED_SHARE:g} % of the distance of an untrained network"
    best = largest_teacher(analysis)
    untrained = best and untrained_distance(record, best)
    if best is None or not untrained:
        return Check(expected, "-", OPEN)
    low, value, high = (100 * fd / untrained for fd in (best.fd.low, best.fd.value, best.fd.high))
    limit = 100 * UNTRAINED_SHARE
    verdict = _side(low, high, limit) if best.source in JUDGING else UNTOLD
    return Check(expected, f"{value:.2f} [{low:.2f}, {high:.2f}] %, {best.size}", verdict)


def _side(low: float, high: float, limit: float) -> str:
    """The verdict of an interval on "below the limit"."""
    return MET if high < limit else MISSED if low > limit else UNTOLD


def _check_second_step(analysis: Analysis) -> Check:
    expected = "sCD better in 2 steps than in 1 at every size"
    found = [one for one in analysis.distances if one.method == "scd"]
    fd = {(one.steps, one.size): one.fd for one in found}
    both = [size for steps, size in fd if steps == 1 and (2, size) in fd]
    if not both:
        return Check(expected, "-", OPEN)
    worse = [size for size in both if fd[2, size].value >= fd[1, size].value]
    measured = f"worse at {listed(worse)}" if worse else f"at {len(both)} of {len(both)}"
    if any(one.source not in JUDGING for one in found):
        return Check(expected, measured, UNTOLD)
    if any(fd[2, size].low > fd[1, size].high for size in both):
        return Check(expected, measured, MISSED)
    return Check(expected, measured, MET if all(fd[2, size].high < fd[1, size].low for size in both) else UNTOLD)


def _check_ratio(analysis: Analysis, steps: int, limit: float) -> Check:
    expected = f"{curve_label('scd', steps)}: ratio to its teacher below {limit:g} at every size"
    curve = analysis.ratio_curve("scd", steps)
    if curve is None:
        return Check(expected, "-", OPEN)
    worst = max(curve.points, key=lambda point: point.ratio.value)
    sides = {_side(point.ratio.low, point.ratio.high, limit) for point in curve.points}
    verdict = UNTOLD if not curve.judges else MISSED if MISSED in sides else UNTOLD if UNTOLD in sides else MET
    return Check(expected, f"largest {show(worst.ratio)}, {worst.size}", verdict)


def _check_constancy(analysis: Analysis, method: str, steps: int, *, constant: bool) -> Check:
    claim = "the same" if constant else "not the same"
    expected = f"{curve_label(method, steps)}: ratio {claim} at every size (the paper's finding)"
    curve = analysis.ratio_curve(method, steps)
    if curve is None or curve.constancy is None:
        return Check(expected, "-", OPEN)
    if not curve.judges or curve.constancy.verdict == NOT_TOLD:
        return Check(expected, f"mean {show(curve.mean)}", UNTOLD)
    agrees = HOLDS if constant else MET
    against = MISSED if constant else HOLDS_NOT
    trend = f"trend {show(curve.trend)}" if curve.trend else ""
    p = f"p {relation(curve.constancy.p)}" if curve.constancy.p is not None else ""
    measured = ", ".join(filter(None, [curve.constancy.verdict, trend, p]))
    if curve.constancy.rejected:
        return Check(expected, measured, against if constant else MET)
    return Check(expected, measured, agrees if constant else against)


def caveats(record: Record, analysis: Analysis) -> list[str]:
    """What a reader must know before trusting the intervals and the ratios."""
    notes = [note for curve in analysis.ratios for note in curve.notes]
    first = record.scores[0]
    near = [one for one in analysis.distances if one.fd.value < NEAR_FLOOR * first.floor]
    if near:
        names = listed([f"{curve_label(one.method, one.steps)} {one.size}" for one in near])
        notes.append(f"less than {NEAR_FLOOR:g} times the floor, where finite N pulls ratios towards one: {names}")
    notes += [
        f"power law of {curve_label(law.method, law.steps)}: {text}" for law in analysis.laws for text in law.warnings
    ]
    return [f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys([*notes, *analysis.notes])]


def largest_teacher(analysis: Analysis) -> Distance | None:
    """The distance of the teacher with the most multiply-adds."""
    teachers = [one for one in analysis.distances if one.method == TEACHER]
    return max(teachers, key=lambda one: one.macs, default=None)


def untrained_distance(record: Record, teacher: Distance) -> float | None:
    """The mean distance of the untrained networks of a teacher's size, None where it was not measured."""
    known = [
        run.untrained for run in record.scores if run.method == TEACHER and run.size == teacher.size and run.untrained
    ]
    return sum(known) / len(known) if known else None
