"""The rows of a scaling table, and how they are read from the scores of a study's runs (`table_file`: from a file)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError

if TYPE_CHECKING:  # pydantic, which a table in a file does not need
    from scaling.run.schemas import RunScores

TEACHER = "teacher"
LABELS = {"teacher": "Teacher", "scd": "sCD", "sct": "sCT", "vsd": "VSD", "scd_vsd": "sCD+VSD"}


class TableError(UserError):
    """A table or a scores file that cannot be analysed; the message names the place, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured score: a Frechet distance unless `metric` says otherwise.

    `macs` are the multiply-adds (counted once) of one forward pass of one sample, `nfe` the network evaluations of one
    sample, `replicates` [B] the scores of bootstrap resamples of the generated samples, where they were kept. Not every
    table knows `parameters`, `training` (multiply-adds of the whole training), `images` (seen in training), `n`, the
    number of samples judged, and `decoder`, the multiply-adds that decode an image. `place` is where the row was read,
    for messages.
    """

    method: str
    steps: int
    nfe: int
    size: str
    seed: int
    macs: float
    fd: float
    replicates: npt.NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    parameters: float | None = None
    training: float | None = None
    images: float | None = None
    metric: str = ""
    n: int | None = None
    decoder: float | None = None
    place: str = field(default="", repr=False, compare=False)


def rows_of(scores: RunScores) -> list[Row]:
    """The distances of one run by its first metric, one row for each number of steps; none of a run not judged."""
    return [
        Row(
            method=scores.method,
            steps=score.steps,
            nfe=score.nfe,
            size=scores.size,
            seed=scores.seed,
            macs=scores.macs,
            fd=score.fd,
            replicates=np.asarray(spread, dtype=np.float64) if len(spread := score.spread()) > 1 else None,
            parameters=float(scores.parameters),
            training=scores.training or None,
            images=float(scores.images) if scores.images else None,
            decoder=scores.decoder,
            metric=scores.metric,
            n=scores.n,
            place=f"run {scores.run}",
        )
        for score in scores.scores
    ]


def method_label(method: str) -> str:
    """The name of a method, or of a ratio of two, as the paper writes it: "scd" is "sCD"; an unknown keeps its name."""
    return " / ".join(LABELS.get(part, part) for part in method.split(" / "))


def curve_label(method: str, steps: int) -> str:
    """A method and its number of steps in words: "sCD, 2 steps"."""
    return f"{method_label(method)}, {steps} step{'' if steps == 1 else 's'}"


def curve_order(method: str, steps: int) -> tuple[int, str, int]:
    """Sorting key of curves: the teacher first, then the paper's methods, then others by name."""
    known = list(LABELS)
    return (known.index(method) if method in known else len(known), method, steps)


def check_comparable(scores: Sequence[RunScores]) -> None:
    """Raise TableError unless all scores share one metric and one N; distances of different N must not be compared."""
    for other in scores[1:]:
        first = scores[0]
        if (other.metric, other.n) != (first.metric, first.n):
            raise TableError(
                f"run {other.run} has {other.metric} at N = {other.n}, run {first.run} has {first.metric} at "
                f"N = {first.n}: one analysis needs one metric and one N; evaluate both alike"
            )


def load_scores(study: Path) -> list[Row]:
    """The rows of every run under the folder of a study that is done.

    Raises TableError when there is none or when metric or N differ between runs, DamagedError for a damaged file.
    """
    from scaling.run.home import RunHome

    homes = [RunHome(path.parent) for path in sorted(study.glob("*/scores.json"))]
    found = [home.read_scores() for home in homes]
    scores = [one for one in found if one is not None and one.head is not None]
    if not scores:
        raise TableError(f"{study}: no run has a scores.json yet; run the study first")
    check_comparable(scores)
    return [row for run in scores for row in rows_of(run)]


def check_rows(rows: Iterable[Row], axis: str = "macs") -> None:
    """Raise TableError for two rows of one identity, two teachers of one size and seed, or two costs of one network.

    Rows of one table, whose `macs` are the costs on an axis.
    """
    seen: dict[tuple[object, ...], Row] = {}
    macs: dict[tuple[str, str], Row] = {}
    for row in rows:
        teacher = row.method == TEACHER
        key = (row.method, row.size, row.seed) if teacher else (row.method, row.size, row.seed, row.steps)
        first = seen.setdefault(key, row)
        if first is not row:
            what = "teachers" if teacher else f"rows of {row.method} with {row.steps} steps"
            raise TableError(
                f"two {what} for size {row.size!r}, seed {row.seed}{_places(first, row)}; keep one, or give each its "
                "seed"
            )
        other = macs.setdefault((row.method, row.size), row) if axis in ("macs", "parameters") else row
        if other.macs != row.macs:
            raise TableError(
                f"{row.method} of size {row.size!r} has {axis} {row.macs:g} and {other.macs:g}{_places(other, row)}; "
                "one size is one network"
            )


def _places(one: Row, other: Row) -> str:
    return f" ({one.place} and {other.place})" if one.place and other.place else ""
