"""Which figures a report shows, with their titles, captions and words for those who cannot see them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from scaling.analysis.summary import Analysis, show
from scaling.analysis.table import curve_label, curve_order, method_label
from scaling.analysis.words import HOLD, listed
from scaling.config.metrics import metric_label
from scaling.report.figures import Painted, distance_figure, has_curve, ratio_figure, sampling_figure, training_figure
from scaling.report.grids import Pixels, beside, grid_figure, matching, tile
from scaling.report.recipes import recipes_figure
from scaling.report.record import Images, Record, RunRecord

COLUMNS, SHOWN = 10, 20
# Inches: a picture over the whole page, and one of two side by side.
WIDE, NARROW = 9.0, 5.0


@dataclass(frozen=True)
class Picture:
    """One figure: file name, PNG bytes, title, words for those who cannot see it, caption, SVG and PDF by name."""

    file: str
    png: bytes
    title: str
    alt: str
    caption: str
    vectors: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def draw_pictures(record: Record, analysis: Analysis | None) -> dict[str, list[Picture]]:
    """The pictures of the sections curves, overview, training and samples; a section without material is empty."""
    overview = _overview(record)
    return {
        "curves": [] if analysis is None else _curves(record, analysis),
        "overview": [] if overview is None else [overview],
        "training": _training(record),
        "samples": _samples(record, analysis),
    }


def _curves(record: Record, analysis: Analysis) -> list[Picture]:
    first = record.scores[0]
    name = metric_label(first.metric)
    sources = listed([HOLD[source] for source in dict.fromkeys(one.source for one in analysis.distances)])
    scores = "; ".join(f"{curve_label(one.method, one.steps)} {one.size}: {show(one.fd)}" for one in analysis.distances)
    if len({one.size for one in analysis.distances}) == 1:
        return [
            vector_picture(
                "distance",
                recipes_figure(analysis, name, first.n),
                f"{name} of each recipe",
                scores,
                f"Size {analysis.distances[0].size}. Lower is better. Bars: 95 % intervals, which hold {sources}.",
            )
        ]
    distance = vector_picture(
        "distance",
        distance_figure(analysis, name, first.n, first.floor),
        f"{name} against multiply-adds",
        scores,
        f"Lower is better. Bars: 95 % intervals, which hold {sources}. Lines and bands: power laws, FD falling as MACs "
        "to the power −α. Crosses: the largest size, predicted from the others.",
    )
    sampling = vector_picture(
        "sampling",
        sampling_figure(analysis, name, first.n),
        f"{name} against the compute of sampling",
        scores,
        "Multiply-adds of one sample: those of one forward pass times its evaluations.",
    )
    if not analysis.ratios:
        return [distance, sampling]
    points = [(curve, point) for curve in analysis.ratios for point in curve.points]
    ratio = vector_picture(
        "ratio",
        ratio_figure(analysis),
        "Ratio to the own teacher against multiply-adds",
        "; ".join(f"{curve_label(c.method, c.steps)} {point.size}: {show(point.ratio)}" for c, point in points),
        f"{name} of a student over that of the teacher of its own size and seed. A level line means that distillation "
        "costs the same share at every size. Bars: 95 % intervals of each point.",
    )
    return [distance, ratio, sampling]


def vector_picture(name: str, painted: Painted, title: str, alt: str, caption: str) -> Picture:
    """A figure with its SVG and PDF beside the PNG."""
    files = painted.files(name)
    return Picture(f"{name}.png", files.pop(f"{name}.png"), title, alt, caption, files)


def _training(record: Record) -> list[Picture]:
    methods = list(dict.fromkeys(run.method for run in record.runs))
    pictures = []
    for method in methods:
        runs = [run for run in record.runs if run.method == method and has_curve(run, "loss")]
        if runs:
            pictures.append(
                Picture(
                    f"training-{_slug(method)}.png",
                    training_figure(runs, record.sizes, methods),
                    method_label(method),
                    f"Training curves of {method_label(method)}, one line for each of {len(runs)} runs",
                    "",
                )
            )
    return pictures


def _overview(record: Record) -> Picture | None:
    """Real images and every method of the largest size that has samples, the same noise in a column."""
    sampled = [run for run in record.runs if run.samples]
    if not sampled:
        return None
    size = max((run.size for run in sampled), key=record.sizes.index)
    strips: dict[str, Pixels] = {}
    for run in sampled:
        for steps, images in sorted(run.samples.items()):
            if run.size == size:
                strips.setdefault(curve_label(run.method, steps), tile(images.images[:SHOWN], SHOWN))
    labels = next(images.labels for run in sampled if run.size == size for images in run.samples.values())
    real = matching(record.real, labels[:SHOWN], 0) if record.real else None
    rows = [("Real images of the same classes", tile(real, SHOWN))] if real is not None else []
    return Picture(
        "overview.png",
        grid_figure([*rows, *strips.items()], WIDE),
        f"Samples of the largest size ({size})",
        f"Rows of {SHOWN} images of size {size}: {', '.join(strips)}",
        "In each column all samples start from the same noise and class. Nothing was selected.",
    )


def _samples(record: Record, analysis: Analysis | None) -> list[Picture]:
    """One picture for each (method, steps): a strip a size, the first seed's samples left and real images right."""
    blocks: dict[tuple[str, int], dict[str, RunRecord]] = {}
    for run in record.runs:
        for steps in run.samples:
            blocks.setdefault((run.method, steps), {}).setdefault(run.size, run)
    pictures = []
    for method, steps in sorted(blocks, key=lambda key: curve_order(*key)):
        runs = blocks[method, steps]
        strips = [
            (
                _strip_title(record, analysis, method, steps, size),
                _strip(run.samples[steps], record.real, i * SHOWN // COLUMNS),
            )
            for i, (size, run) in enumerate((size, runs[size]) for size in record.sizes if size in runs)
        ]
        label = curve_label(method, steps)
        alt = f"Samples of {label}, sizes {', '.join(runs)}, beside real images"
        pictures.append(Picture(f"samples-{_slug(method)}-{steps}.png", grid_figure(strips, NARROW), label, alt, ""))
    return pictures


def _strip(samples: Images, real: Images | None, skip: int) -> Pixels:
    generated = tile(samples.images[:SHOWN], COLUMNS)
    beside_them = matching(real, samples.labels[:SHOWN], skip) if real else None
    return generated if beside_them is None else beside(generated, tile(beside_them, COLUMNS))


def _strip_title(record: Record, analysis: Analysis | None, method: str, steps: int, size: str) -> str:
    for one in analysis.distances if analysis else ():
        if (one.method, one.steps, one.size) == (method, steps, size):
            return f"{size}   {metric_label(record.scores[0].metric)} {one.fd.value:.3g}"
    # A study that is not judged is done without distances: nothing is missing there.
    unjudged = any(run.scores is not None and run.scores.head is None for run in record.runs)
    return size if unjudged else f"{size}   no score yet"


def _slug(name: str) -> str:
    return re.sub(r"[^\w+.-]", "_", name)
