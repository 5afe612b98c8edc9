"""Tables that others wrote: a CSV file with one measured score a row, spellings understood or refused by line."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from data_pipeline.foreign import kind_of
from data_pipeline.text import is_safe, shown
from scaling.analysis.columns import DECODER, NUMBERS, SCORE, SYNONYMS, TEXTS, Choice, Column, plain, read_header
from scaling.analysis.table import LABELS, Row, TableError

PUBLISHED = Path(__file__).parent / "published"
SEPARATORS = (",", ";", "\t")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SEPARATED = re.compile(r"[+-]?[0-9]+([.,'_\s\u2019][0-9]+)+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
WITH_ERROR = re.compile(r"[0-9.,]+\s*(±|\+-|\+/-|\().*")
WITH_UNIT = re.compile(r"[0-9.,]+\s*[A-Za-z%]+")
EXCELS_WORD = re.compile(r"sep=(.)")
MAX_DIGITS, MAX_NAME, NAMED_ROWS = 15, 80, 8
# Costs of one size that differ more, or of the whole table, are in different units.
ONE_SIZE, ONE_TABLE = 100.0, 1e7
# What a network costs at least, and what a smaller number is likely to be.
LEAST = {
    "macs": (1e5, "GMACs? 1 GMAC is 1e9"),
    "parameters": (1e4, "millions? 1 M is 1e6"),
    "training": (1e9, "in another unit? multiply-adds of the whole training are meant"),
    "images": (1e4, "thousands or millions? 1 Mimg is 1e6"),
}
ABSENT = (  # a score that was not measured
    *("", "-", "–", "—", "--", "?"),
    *("na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "tbd"),
)
REMEMBERED = ("method", "size", "metric", "steps", "nfe", "seed", "n", *NUMBERS)  # few values, each many times
log = logging.getLogger(__name__)


def resolve_table(name: str) -> Path:
    """The file behind a table's name: the path itself, or else the packaged table for "published/NAME.csv".

    Raises TableError, with the list of published tables, when neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = PUBLISHED / path.name
    if path.parent == Path("published") and packaged.is_file():
        return packaged
    known = ", ".join(f"published/{entry.name}" for entry in sorted(PUBLISHED.glob("*.csv")))
    raise TableError(f"{name}: no such file; published tables are {known}")


def load_table(path: Path, chosen: Sequence[Choice] = ()) -> list[Row]:
    """Read a text table: a score (`fd`), a cost (macs, parameters, training or images), and what else `columns` knows.

    Columns are separated by commas, semicolons or tabs and stand in any order; columns and methods are known in any
    case and by the names that we print ("Teacher", "sCD"), `FID` is fd, and `chosen` says what else they are. Blank
    rows and lines that start with # are passed over. Without a column for it the method is "all", a size is named by
    its cost, steps are 1, nfe is steps and the seed is 0. A row without a score is passed over with a warning.

    Raises:
        TableError: names file, line, column and value of the first fault.
    """
    lines = _lines(path)
    records = _records(path, lines)
    number, names = next(records, (1, []))
    columns = read_header(f"{path}, line {number}", names, chosen)
    reader = _Reader(path, columns)
    for number, values in records:
        if len(values) != len(names):
            raise TableError(
                f"{path}, line {number}: {len(values)} values for {len(names)} columns ({','.join(names)})"
            )
        reader.read(number, values)
    if not reader.rows:
        raise TableError(f"{path}: a header but no rows{' with a score' if reader.unmeasured else ''}")
    if reader.unmeasured:
        log.warning("%s: %s without a score, passed over", path, named(reader.unmeasured))
    _check_units(path, reader.rows)
    return reader.rows


def named(places: Sequence[int]) -> str:
    """The numbers of lines, the first few by number."""
    first = ", ".join(map(str, places[:NAMED_ROWS]))
    more = f" and {len(places) - NAMED_ROWS} more" if len(places) > NAMED_ROWS else ""
    return f"line{'s' if len(places) > 1 else ''} {first}{more}"


def _lines(path: Path) -> list[str]:
    """The lines of the text, those of comments blank, so that lines keep their numbers."""
    try:
        data = path.read_bytes()
        if what := kind_of(data):
            raise TableError(f"{path}: is {what}, expected a text table (CSV)")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read as UTF-8 text ({error}): save it as UTF-8") from error
    if text.lstrip()[:1] in ("{", "["):
        raise TableError(f"{path}: looks like JSON, expected a text table (CSV): export it as one")
    if "\0" in text:
        raise TableError(f"{path}: holds NUL characters: it is no text table; export it as CSV in UTF-8")
    return ["\n" if line.lstrip().startswith("#") else line for line in io.StringIO(text, newline=None)]


def _separator(lines: Sequence[str]) -> str:
    """The one that Excel's first line "sep=;" names; else the one by which the first line that is not blank falls into
    the most known columns, or into the most.
    """
    first = next((line for line in lines if line.strip()), "")
    if (said := EXCELS_WORD.fullmatch(first.strip())) and said[1] in SEPARATORS:
        return said[1]
    parts = {separator: first.split(separator) for separator in SEPARATORS}
    return max(SEPARATORS, key=lambda each: (sum(plain(name) in SYNONYMS for name in parts[each]), len(parts[each])))


def _records(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped values of every row that is not blank."""
    separator = _separator(lines)
    lines = ["\n" if EXCELS_WORD.fullmatch(line.strip()) else line for line in lines]
    reader, number = csv.reader(lines, delimiter=separator, strict=True), 0
    try:
        for values in reader:
            number = reader.line_num
            stripped = [value.strip() for value in values]
            if any(stripped):
                yield number, stripped
    except csv.Error as error:
        raise TableError(f"{path}, after line {number}: {error}: is a quote open or misplaced?") from error


class _Reader:
    """Turns records into rows; values that come many times are understood once."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.path, self.rows, self.unmeasured = path, list[Row](), list[int]()
        self.scores = [column for column in columns if column.meaning == SCORE]
        self.others = [column for column in columns if column.meaning != SCORE]
        self.has_metric = any(column.meaning == "metric" for column in columns)
        self.known: dict[tuple[str, str], Any] = {}
        self.spelling: dict[str, str] = {}

    def read(self, number: int, values: Sequence[str]) -> None:
        """Append the rows of one line: one for each score that was measured."""
        facts = {column.meaning: self._value(number, column, values[column.position]) for column in self.others}
        steps = facts.get("steps", 1)
        for column in self.scores:
            text = values[column.position]
            if text.casefold() in ABSENT:
                self.unmeasured.append(number)
                continue
            several = f"{facts['metric']} {column.name}" if self.has_metric else column.name
            self.rows.append(
                Row(
                    method=facts.get("method", "all"),
                    steps=steps,
                    nfe=facts.get("nfe", steps),
                    size=facts.get("size") or f"{next(facts[name] for name in NUMBERS if name in facts):.12g}",
                    seed=facts.get("seed", 0),
                    macs=facts.get("macs", math.nan),
                    fd=self._value(number, column, text),
                    parameters=facts.get("parameters"),
                    training=facts.get("training"),
                    images=facts.get("images"),
                    metric=several if len(self.scores) > 1 else facts.get("metric", ""),
                    n=facts.get("n"),
                    decoder=facts.get(DECODER),
                    place=f"line {number}",
                )
            )

    def _value(self, number: int, column: Column, text: str) -> Any:
        key = (column.meaning, text)
        if key in self.known:
            return self.known[key]
        convert, wanted = CONVERTERS[column.meaning]
        try:
            value = convert(text)
        except ValueError as error:
            where = f"{self.path}, line {number}, column {column.meaning}"
            raise TableError(f"{where}: {shown(text)} is not {wanted}{_hint(column, text)}") from error
        if isinstance(value, float):
            value *= column.factor
        elif isinstance(value, str):
            value = self._spelled(column.meaning, value)
        if column.meaning in REMEMBERED:
            self.known[key] = value
        return value

    def _spelled(self, meaning: str, name: str) -> str:
        """A name as it was first written, whose case later rows need not repeat; of a method, our own name."""
        known = _known_method(name) if meaning == "method" else None
        return known or self.spelling.setdefault(f"{meaning} {name.casefold()}", name)


def _known_method(name: str) -> str | None:
    """Our name of a method that is written as we or the paper print it: "Teacher", "sCD + VSD"."""
    flat = "".join(name.split()).casefold()
    return next((method for method, label in LABELS.items() if flat in (method, label.casefold())), None)


def _hint(column: Column, text: str) -> str:
    if column.meaning in TEXTS:
        return ""
    if WITH_ERROR.fullmatch(text):
        return ": write the value alone; the scatter is estimated, or given by --relative-noise"
    if WITH_UNIT.fullmatch(text):
        what = f", or the number alone and a factor: --column '{column.meaning}={column.name}*1e6'"
        return f": write it without a unit{what if column.meaning in NUMBERS else ''}"
    if SEPARATED.fullmatch(text):
        return ": write it without separators, with a point before decimals"
    if column.meaning == SCORE and (NUMBER.fullmatch(text) or text.casefold().lstrip("+-") in ("inf", "infinity")):
        return ": laws are fitted to logarithms; leave the cell empty where nothing was measured"
    return ""


def _name(text: str) -> str:
    if not text or len(text) > MAX_NAME or not is_safe(text):
        raise ValueError("empty, too long or not printable")
    return text


def _whole(text: str) -> int:
    if not NUMBER.fullmatch(text) or len(text) > MAX_DIGITS:
        raise ValueError("not a whole number")
    value = float(text)
    if not value.is_integer():  # 1.0 is what a data frame with an empty cell makes of 1
        raise ValueError("not a whole number")
    return int(value)


def _count(text: str) -> int:
    value = _whole(text)
    if value <= 0:
        raise ValueError("not above 0")
    return value


def _positive(text: str) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError("not a finite number above 0")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if NUMBER.fullmatch(text) and float(text) == 0 else _positive(text)


CONVERTERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("method", "size", "metric"), (_name, "a name")),
    **dict.fromkeys(("steps", "nfe", "n"), (_count, "a whole number above 0")),
    "seed": (_whole, "a whole number"),
    **dict.fromkeys((*NUMBERS, SCORE), (_positive, "a number above 0")),
    DECODER: (_not_negative, "a number, 0 or more"),
}


def _check_units(path: Path, rows: Sequence[Row]) -> None:
    """TableError where costs can only be in different units; a warning where all are too few for a network."""
    for name in NUMBERS:
        cost = attrgetter(name)
        known = [row for row in rows if (value := cost(row)) == value and value]
        if not known:
            continue
        if name in ("macs", "parameters"):
            sizes: dict[str, list[Row]] = {}
            for row in known:
                sizes.setdefault(row.size, []).append(row)
            for size, of_size in sizes.items():
                if len(of_size) > 1:
                    _check_spread(path, name, of_size, ONE_SIZE, f"one size, {size!r}")
        _check_spread(path, name, known, ONE_TABLE, "one table")
        most = max(known, key=cost)
        least, likely = LEAST[name]
        if cost(most) < least:
            text = "%s: %s is %g at most (%s), few for a network: are they %s"
            log.warning(text, path, name, cost(most), most.place, likely)


def _check_spread(path: Path, name: str, rows: Sequence[Row], most: float, what: str) -> None:
    cost = attrgetter(name)
    least, largest = min(rows, key=cost), max(rows, key=cost)
    if cost(largest) > most * cost(least):
        raise TableError(
            f"{path}: {name} is {cost(least):g} in {least.place} and {cost(largest):g} in {largest.place}, of {what}: "
            "is one of them in another unit? 1 GMAC is 1e9"
        )
