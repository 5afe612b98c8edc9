"""The rows of a scaling table, and how they are read from the scores of a study's runs (`table_file`: from a file)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from scaling.run.home import RunHome
from scaling.run.schemas import RunScores

TEACHER = "teacher"
LABELS = {"teacher": "Teacher", "scd": "sCD", "sct": "sCT", "scd+vsd": "sCD+VSD"}


class TableError(UserError):
    """A table or a scores file that cannot be analysed; the message names the place, the value and the remedy."""


@dataclass(frozen=True)
class Row:
    """One measured Frechet distance.

    `macs` are the multiply-adds (counted once) of one forward pass of one sample, `nfe` the network evaluations of one
    sample, `replicates` [B] the distances of bootstrap resamples of the generated samples, where they were kept.
    """

    method: str
    steps: int
    nfe: int
    size: str
    seed: int
    macs: float
    fd: float
    replicates: npt.NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


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
        )
        for score in scores.scores
    ]


def method_label(method: str) -> str:
    """The name of a method as the paper writes it: "scd" becomes "sCD"; an unknown method keeps its own name."""
    return LABELS.get(method, method)


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
    homes = [RunHome(path.parent) for path in sorted(study.glob("*/scores.json"))]
    scores = [found for home in homes if (found := home.read_scores()) is not None]
    if not scores:
        raise TableError(f"{study}: no run has a scores.json yet; run the study first")
    check_comparable(scores)
    return [row for run in scores for row in rows_of(run)]


def check_rows(rows: Iterable[Row]) -> None:
    """Raise TableError for two rows of one identity, two teachers of one size and seed, or two costs of one network."""
    seen: set[tuple[object, ...]] = set()
    macs: dict[tuple[str, str], float] = {}
    for row in rows:
        teacher = row.method == TEACHER
        key = (row.method, row.size, row.seed) if teacher else (row.method, row.size, row.seed, row.steps)
        if key in seen:
            what = "teachers" if teacher else f"rows of {row.method} with {row.steps} steps"
            raise TableError(f"two {what} for size {row.size!r}, seed {row.seed}; keep one, or give each its seed")
        seen.add(key)
        if macs.setdefault((row.method, row.size), row.macs) != row.macs:
            raise TableError(
                f"{row.method} of size {row.size!r} has macs {row.macs:g} and {macs[row.method, row.size]:g}; "
                "one size is one network"
            )
