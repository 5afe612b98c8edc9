"""Of a study with evaluation.slopes: the two terms of df/dt of each teacher, by time (sCM, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from data_pipeline.arrays import load_arrays
from scaling.analysis.table import TEACHER
from scaling.report.figures import Painted
from scaling.report.pictures import Picture, vector_picture
from scaling.report.record import FloatArray, Record
from scaling.report.style import colour
from scaling.run.home import StudyFolder

TERMS = {"space": "|| grad_x f · dx/dt ||", "time": "|| d_t f ||"}


@dataclass(frozen=True)
class Slopes:
    """One teacher's norms [T] at the times [T], by the names of TERMS."""

    size: str
    times: FloatArray
    norms: dict[str, FloatArray]


def read_slopes(study: Path, record: Record) -> list[Slopes]:
    """Those of each size, of several seeds the first. DataError."""
    found: dict[str, Slopes] = {}
    for run in record.runs:
        path = StudyFolder(study).home(run.name).slopes
        if run.method == TEACHER and run.size not in found and path.is_file():
            times, *norms = load_arrays(path, "times", *TERMS)
            found[run.size] = Slopes(run.size, times, dict(zip(TERMS, norms, strict=True)))
    return [*found.values()]


def slope_pictures(slopes: Sequence[Slopes]) -> list[Picture]:
    """One figure of both terms; none for other studies."""
    if not slopes:
        return []
    peaks = "; ".join(f"{one.size}: at most {one.norms['time'].max():.3g} along t" for one in slopes)
    return [
        vector_picture(
            "slopes",
            Painted(lambda figure: _paint(figure, slopes), 9.0, 3.6),
            "How fast f changes, along x and along t",
            peaks,
            "Norms of both terms of df/dt of each teacher, means over real samples: where one is large, so is the "
            f"tangent. {peaks}.",
        )
    ]


def _paint(figure: Figure, slopes: Sequence[Slopes]) -> None:
    sizes = [one.size for one in slopes]
    for axes, term in zip(figure.subplots(1, len(TERMS)), TERMS, strict=True):
        for one in slopes:
            axes.plot(one.times, one.norms[term], color=colour(one.size, sizes), linewidth=1.3, label=one.size)
        axes.set_yscale("log")
        axes.set_xlabel("t, radians")
        axes.set_title(TERMS[term])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
