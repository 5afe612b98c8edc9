"""What a law is asked to predict: a cost, or a size by its name in the table or in one of our families."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from models.shape import count_macs, count_parameters
from scaling.analysis.axis import cost_of
from scaling.analysis.table import Row, TableError
from scaling.config.families import CONFIGS, load_family

NEAR = 0.03  # costs of one network, counted by us and by others, differ by less


def resolve_targets(words: Iterable[str], rows: Sequence[Row], axis: str) -> dict[str, float]:
    """The cost on the axis of each target: "macs=5.5e11", a size of the table, or a size of the family that it is of.

    TableError says what may be asked.
    """
    return {word: _resolve(word, rows, axis) for word in words}


def _resolve(word: str, rows: Sequence[Row], axis: str) -> float:
    name, equals, value = word.partition("=")
    if equals:
        if name != axis:
            raise TableError(f"--predict {word}: laws are fitted against {axis} here: give {axis}=NUMBER, or --against")
        try:
            cost = float(value)
        except ValueError:
            cost = -1.0
        if not 0 < cost < float("inf"):
            raise TableError(f"--predict {word}: give a number above 0, such as {axis}=5.5e11")
        return cost
    known = {row.size.casefold(): cost_of(row, axis) for row in rows}
    if word.casefold() in known:
        return known[word.casefold()]
    sizes = family_costs(rows, axis)
    if word.casefold() not in sizes:
        of_family = f"; its family also has {', '.join(sizes)}" if sizes else ""
        of_table = ", ".join(dict.fromkeys(row.size for row in rows))
        raise TableError(
            f"--predict {word}: no such size in the table, which has {of_table}{of_family}; or give {axis}=NUMBER"
        )
    return sizes[word.casefold()]


def family_costs(rows: Sequence[Row], axis: str) -> dict[str, float]:
    """The costs of all sizes of the family that the table's sizes are of, in the table's own count; {} where none is.

    A family is that of a table where all sizes of one name cost the same within 3 %.
    """
    if axis not in ("macs", "parameters"):
        return {}
    known = {row.size.casefold(): cost_of(row, axis) for row in rows}
    for path in sorted((CONFIGS / "family").glob("*.yaml")):
        counts = _counts(path.stem, axis)
        shared = [known[size] / counts[size] for size in counts if size in known]
        if len(shared) > 1 and all(abs(ratio - 1) < NEAR for ratio in shared):
            factor = statistics.geometric_mean(shared)
            return {size: cost * factor for size, cost in counts.items()}
    return {}


def _counts(family: str, axis: str) -> Mapping[str, float]:
    count = count_macs if axis == "macs" else count_parameters
    return {size.casefold(): float(count(network)) for size, network in load_family(family).sizes.items()}
