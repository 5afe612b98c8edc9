"""What an analysis says, in sentences for people: the answer to "how does it scale, how sure are we"."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.analysis.powerlaw import PowerLaw
from scaling.analysis.ratios import REJECTED, UNTOLD, RatioCurve
from scaling.analysis.summary import Analysis, show
from scaling.analysis.table import TEACHER, curve_label, method_label
from scaling.analysis.uncertainty import RESIDUALS, SAMPLES, SEEDS, STATED, UNKNOWN, Interval

HOLD = {
    SEEDS: "the scatter between seeds",
    RESIDUALS: "the scatter of the sizes about the law",
    SAMPLES: "the noise of the samples of one run alone: they decide nothing",
    STATED: "a relative noise that you stated",
    UNKNOWN: "nothing: single numbers of too few sizes have no intervals",
}


def answer(analysis: Analysis) -> list[str]:
    """A sentence on each method: its ratio to the teacher and whether it changes with size; else how its score
    falls.
    """
    methods = list(dict.fromkeys(curve.method for curve in analysis.ratios))
    sentences = [_ratio_sentence([one for one in analysis.ratios if one.method == method]) for method in methods]
    teacher = next((law for law in analysis.laws if law.method == TEACHER), None)
    laws = [teacher] if teacher else [] if analysis.ratios else list(analysis.laws[:3])
    for law in laws:
        floor = law.floor
        text = f"{curve_label(law.method, law.steps)}: the score falls as {analysis.axis_label}^-{show(law.alpha)}"
        sentences.append(f"{text}; it needs a floor of {show(floor.E)}." if floor and floor.needed else f"{text}.")
    sources = list(dict.fromkeys(one.source for one in analysis.distances))
    sentences.append(f"Intervals (95 %) hold {' and '.join(HOLD[source] for source in sources)}.")
    return sentences


def _ratio_sentence(curves: Sequence[RatioCurve]) -> str:
    name = method_label(curves[0].method)
    means = listed([f"{show(curve.mean)} in {counted(curve.steps, 'step')}" for curve in curves])
    verdicts = list(dict.fromkeys(constancy_words(curve) for curve in curves if curve.constancy))
    if len(verdicts) > 1:
        told = [f"in {counted(c.steps, 'step')} {constancy_words(c)}" for c in curves if c.constancy]
    else:
        told = verdicts
    ending = f" The same at every size: {'; '.join(told)}." if told else ""
    return f"{name} scores its own teacher's value times {means}.{ending}"


def constancy_words(curve: RatioCurve) -> str:
    """Whether the ratio is the same at every size: "no, it falls with size (p = 0.002)"."""
    test = curve.constancy
    if test is None:
        return "one size: not tested"
    if test.verdict == UNTOLD:
        return "cannot be told"
    by = f" (p {relation(test.p)})" if test.p is not None else ""
    if test.verdict == REJECTED:
        way = direction(curve.trend)
        return f"no{f', it {way} with size' if way else ''}{by}"
    return f"not contradicted{by}"


def held_words(law: PowerLaw) -> str:
    """The errors of the sizes that were held out: "XXL: -3.0%, outside its interval"."""
    return "; ".join(f"{one.size}: {one.error:+.1%}{'' if one.inside else ' (outside)'}" for one in law.held_out) or "-"


def direction(trend: Interval | None) -> str:
    """falls, rises, or nothing where the interval of a trend holds 0."""
    if trend is None or trend.low <= 0 <= trend.high:
        return ""
    return "rises" if trend.low > 0 else "falls"


def probability(p: float) -> str:
    """A probability to two digits; below 0.0001 its size means nothing."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def relation(p: float) -> str:
    """A probability with what stands before it."""
    return f"= {probability(p)}" if p >= 1e-4 else probability(p)


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names with commas and an "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
