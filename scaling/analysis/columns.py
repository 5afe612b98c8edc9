"""The columns of a table that others wrote: which of them hold what, by our names, theirs, or the user's word."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_pipeline.text import shown
from scaling.analysis.table import TableError

SCORE = "fd"
NUMBERS = ("macs", "parameters", "training", "images")  # costs: a table needs one of them
TEXTS = ("method", "size", "metric")
COUNTS = ("steps", "nfe", "seed", "n")
DECODER = "decoder"  # multiply-adds that decode an image: part of a cost, and none by itself
MEANT = (*TEXTS, *COUNTS, *NUMBERS, DECODER, SCORE)
PASSED_OVER = ("run", "floor", "untrained", "ratio", "source")  # of our own tables, and not analysed
COLUMNS = ("method", "steps", "nfe", "size", "macs", SCORE, "seed", "metric", "n", "parameters", "training", "images")
COLUMNS += (DECODER, *PASSED_OVER)
# Other names of columns that can mean one thing only, as `plain` writes them.
SYNONYMS = {
    **{name: name for name in COLUMNS},
    **dict.fromkeys(("fid", "frechetdistance", "frechetinceptiondistance", "fid50k", "score", "loss"), SCORE),
    **dict.fromkeys(("step", "samplingsteps", "numsteps"), "steps"),
    **dict.fromkeys(("mac", "multiplyadds"), "macs"),
    **dict.fromkeys(("params", "numparameters", "numparams"), "parameters"),
    **dict.fromkeys(("trainingmacs", "trainingcompute"), "training"),
    **dict.fromkeys(("imagesseen", "samplesseen"), "images"),
    "nfes": "nfe",
    "modelsize": "size",
}
TRAINING_FLOPS: dict[str, float] = dict.fromkeys(
    ("trainingflops", "trainingflop", "trainflops"), 0.5
)  # a multiply-add is two of them
TWICE = ", or *{} where a multiply-add counts once"
# Costs in other units, as `plain` writes their names: what they mean, by which factor, and what else is to be said.
IN_OTHER_UNITS: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("gmacs", "gmac", "macsg"), ("macs", "1e9", "")),
    **dict.fromkeys(("tmacs", "tmac"), ("macs", "1e12", "")),
    **dict.fromkeys(("mmacs", "mmac"), ("macs", "1e6", "")),
    "flops": ("macs", ".5", " where multiply and add count apart"),
    **dict.fromkeys(("gflops", "gflop", "flopsg"), ("macs", "5e8", TWICE.format("1e9"))),
    "tflops": ("macs", "5e11", TWICE.format("1e12")),
    "mflops": ("macs", "5e5", TWICE.format("1e6")),
    **dict.fromkeys(("mparams", "paramsm", "mparameters", "parametersm", "millionparams"), ("parameters", "1e6", "")),
    **dict.fromkeys(("bparams", "paramsb", "bparameters", "parametersb"), ("parameters", "1e9", "")),
    **dict.fromkeys(("kimg", "kimgs", "imagesk", "trainingkimg"), ("images", "1e3", "")),
    **dict.fromkeys(("mimg", "mimgs", "imagesm", "trainingmimg"), ("images", "1e6", "")),
}
FACTOR = re.compile(r"(?P<name>.*?)(\*(?P<factor>[0-9.]+(e[+-]?[0-9]+)?))?", re.IGNORECASE | re.DOTALL)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """One column of a file: what it holds, where it stands, and by what its numbers are multiplied."""

    meaning: str
    position: int
    name: str
    factor: float = 1.0


@dataclass(frozen=True)
class Choice:
    """`--column MEANING=NAME` or `MEANING=NAME*FACTOR`."""

    meaning: str
    name: str
    factor: float


def parse_choice(text: str) -> Choice:
    """One word of the user. TableError names it, with what may stand there."""
    meaning, equals, rest = text.partition("=")
    meaning = SYNONYMS.get(plain(meaning), meaning)
    found = FACTOR.fullmatch(rest.strip())
    if not equals or meaning not in MEANT or found is None or not found["name"].strip():
        raise TableError(
            f"--column {shown(text)}: give MEANING=NAME or MEANING=NAME*FACTOR, such as fd=FID or macs=GMACs*1e9; "
            f"meanings are {', '.join(MEANT)}"
        )
    factor = float(found["factor"] or 1)
    if factor <= 0 or (factor != 1 and meaning not in (*NUMBERS, DECODER, SCORE)):
        raise TableError(f"--column {shown(text)}: a factor above 0, of {', '.join((*NUMBERS, DECODER, SCORE))} alone")
    return Choice(meaning, found["name"].strip(), factor)


def plain(name: str) -> str:
    """The letters and digits of a name, without case: "#Params" is params, "FID (↓)" is fid."""
    return re.sub(r"[\W_]", "", name).casefold()


def read_header(where: str, names: Sequence[str], chosen: Sequence[Choice] = ()) -> list[Column]:
    """The columns that are read. A column that nobody knows is passed over and said, unless it looks like a slip.

    Several scores may be chosen; each is a metric of its own. Raises TableError naming the column and what to do.
    """
    columns = [_find(where, names, choice) for choice in chosen]
    taken = {column.position for column in columns}
    said = {choice.meaning for choice in chosen}
    ignored = []
    for position, name in enumerate(names):
        if position in taken:
            continue
        if not plain(name):  # the index of a data frame, or what a separator at the end of the line makes
            ignored.append(f"number {position + 1}, which has no name")
            continue
        meaning = "training" if plain(name) in TRAINING_FLOPS else SYNONYMS.get(plain(name))
        if meaning is None:
            ignored.append(_unknown(where, name, {column.meaning for column in columns} | said))
        elif meaning in MEANT and meaning not in said:
            columns.append(Column(meaning, position, name, TRAINING_FLOPS.get(plain(name), 1.0)))
    _check(where, columns, ignored, SCORE in said)
    if ignored:
        log.warning("%s: columns that are not used: %s", where, ", ".join(ignored))
    return columns


def _find(where: str, names: Sequence[str], choice: Choice) -> Column:
    found = [i for i, name in enumerate(names) if name == choice.name]
    found = found or [i for i, name in enumerate(names) if plain(name) == plain(choice.name)]
    if len(found) != 1:
        what = "appears twice: keep one" if found else f"is not in the header, which has {', '.join(map(shown, names))}"
        raise TableError(f"{where}: --column {choice.meaning}={choice.name}: column {shown(choice.name)} {what}")
    return Column(choice.meaning, found[0], names[found[0]], choice.factor)


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    """A column to pass over; TableError where it is a cost in another unit or looks like a slip of a known name."""
    unit = IN_OTHER_UNITS.get(plain(name))
    if unit and not {*NUMBERS} & {*known}:
        meaning, factor, more = unit
        what = ", the multiply-adds of one forward pass, counted once" if meaning == "macs" else " in units of one"
        remedy = f"--column '{meaning}={name}*{factor}'{more}"
        raise TableError(f"{where}: unknown column {shown(name)}: give {meaning}{what} ({remedy})")
    near = difflib.get_close_matches(plain(name), COLUMNS, n=1, cutoff=0.8)
    if near and near[0] not in known and not unit:
        raise TableError(f"{where}: unknown column {shown(name)}; did you mean {near[0]!r}?")
    return shown(name)


def _check(where: str, columns: Sequence[Column], ignored: Sequence[str], several: bool) -> None:
    first: dict[str, Column] = {}
    for column in columns:
        other = first.setdefault(column.meaning, column)
        if other is not column and column.meaning != SCORE:
            raise TableError(f"{where}: {_both(other, column)}: keep one")
    scores = [column for column in columns if column.meaning == SCORE]
    if len(scores) > 1 and not several:
        raise TableError(f"{where}: {_both(scores[0], scores[1])}: keep one, or say --column fd={scores[1].name}")
    others = f"; other columns are {', '.join(ignored)}" if ignored else ""
    if len(columns) + len(ignored) == 1:
        others += ": the line is one column; columns are separated by commas, semicolons or tabs"
    if not scores:
        raise TableError(f"{where}: no column 'fd': name the score, such as --column fd=FID{others}")
    if not any(name in first for name in NUMBERS):
        raise TableError(
            f"{where}: no column 'macs', 'parameters', 'training' or 'images': a law needs a cost, such as "
            f"--column 'macs=GMACs*1e9'{others}"
        )


def _both(one: Column, other: Column) -> str:
    if one.name == other.name:
        return f"column {one.name!r} appears twice"
    return f"column {one.name!r} and {other.name!r} both hold {one.meaning}"
