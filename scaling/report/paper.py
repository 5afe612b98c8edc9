"""What a study hands to a paper: a LaTeX table, BibTeX, and a paragraph on methods made from what was done."""

from __future__ import annotations

from scaling.analysis.summary import Analysis, show
from scaling.analysis.table import TEACHER, curve_label
from scaling.analysis.uncertainty import RESIDUALS, SAMPLES, SEEDS, STATED, UNKNOWN
from scaling.analysis.words import counted, listed
from scaling.config.metrics import floor_words
from scaling.report.record import Record

ESCAPED = {
    "\\": r"\textbackslash{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\^{}",
}
INTERVALS = {
    SEEDS: "Student's t with the scatter between seeds pooled over sizes",
    RESIDUALS: "Student's t with the scatter of runs about the fitted law, the larger of the usual variance and HC2's",
    SAMPLES: "the noise of the generated samples alone",
    STATED: "an assumed relative noise",
    UNKNOWN: "no interval, for want of sizes",
}

BIBTEX = """@inproceedings{lu2025simplifying,
  title     = {Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models},
  author    = {Lu, Cheng and Song, Yang},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2410.11081},
}
@inproceedings{karras2024analyzing,
  title     = {Analyzing and Improving the Training Dynamics of Diffusion Models},
  author    = {Karras, Tero and Aittala, Miika and Lehtinen, Jaakko and Hellsten, Janne and Aila, Timo and
               Laine, Samuli},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024},
  note      = {arXiv:2312.02696},
}
@misc{trigscale,
  title  = {trigscale: scaling studies of continuous-time consistency models},
  year   = {2026},
}
"""


def latex_table(analysis: Analysis, metric: str, n: int) -> str:
    """A booktabs table of scores and ratios, sizes as columns."""
    sizes = list(dict.fromkeys(one.size for one in sorted(analysis.distances, key=lambda one: one.macs)))
    lines = [
        f"% {metric}, N = {n}; brackets are 95 % intervals. Needs \\usepackage{{booktabs}}.",
        f"\\begin{{tabular}}{{l{'r' * len(sizes)}}}",
        r"\toprule",
        " & ".join(["Method", *map(escape, sizes)]) + r" \\",
        r"\midrule",
    ]
    ratios = {(curve.method, curve.steps, one.size): one.ratio for curve in analysis.ratios for one in curve.points}
    for method, steps in dict.fromkeys((one.method, one.steps) for one in analysis.distances):
        scores = {one.size: one.fd for one in analysis.distances if (one.method, one.steps) == (method, steps)}
        cells = [show(scores[size]) if size in scores else "--" for size in sizes]
        lines.append(" & ".join([escape(curve_label(method, steps)), *cells]) + r" \\")
        if method != TEACHER:
            found = [ratios.get((method, steps, size)) for size in sizes]
            shown = [show(ratio) if ratio else "--" for ratio in found]
            lines.append(" & ".join([r"\quad ratio to teacher", *shown]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Text as LaTeX takes it."""
    return "".join(ESCAPED.get(each, each) for each in text)


def methods_paragraph(record: Record, analysis: Analysis, metric: str) -> str:
    """How it was done, in sentences that can be copied."""
    first = record.scores[0]
    sizes, seeds = len({one.size for one in analysis.distances}), len({run.seed for run in record.scores})
    methods = listed(list(dict.fromkeys(curve_label(one.method, one.steps) for one in analysis.distances)))
    sources = listed([INTERVALS[one] for one in dict.fromkeys(one.source for one in analysis.distances)])
    floors = any(law.floor for law in analysis.laws)
    sentences = [
        f"We trained {counted(sizes, 'size')} with {counted(seeds, 'seed')} each and evaluated {methods}.",
        f"Quality is {metric} at N = {first.n:,} samples; {floor_words(first.metric)} {first.floor:.3g} at that N.",
        "Power laws are least-squares fits to the logarithms of the scores, averaged over seeds, against the "
        "multiply-adds of one forward pass.",
        f"Intervals are 95 % intervals: {sources}.",
        "A ratio divides a student's score by that of the teacher of its own size and seed; its trend over sizes is "
        "compared with a constant by the F profile of nested fits."
        if analysis.ratios
        else "",
        "Laws with an additive floor were fitted by variable projection, with F-profile intervals." if floors else "",
        "Data, code and all numbers are in scores.csv and analysis.json of the report, which trigscale wrote.",
    ]
    return " ".join(filter(None, sentences)) + "\n"
