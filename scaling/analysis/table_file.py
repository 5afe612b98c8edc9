"""Tables that others wrote: a CSV file with one measured distance a row, spellings understood or refused by line."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from data_pipeline.foreign import kind_of
from data_pipeline.text import is_safe, shown
from scaling.analysis.table import LABELS, Row, TableError

PUBLISHED = Path(__file__).parent / "published"
REQUIRED = ("method", "steps", "nfe", "size", "macs", "fd")
COLUMNS = (*REQUIRED, "seed", "metric", "n", "run", "parameters", "floor", "untrained", "ratio")
# Other names of columns that can mean one thing only, in lower case and without spaces, dashes and underscores.
SYNONYMS = {
    **{name: name for name in COLUMNS},
    **dict.fromkeys(("fid", "frechetdistance", "frechetinceptiondistance"), "fd"),
    **dict.fromkeys(("step", "samplingsteps", "numsteps"), "steps"),
    **dict.fromkeys(("mac", "multiplyadds"), "macs"),
    **dict.fromkeys(("params", "numparameters", "numparams"), "parameters"),
    "nfes": "nfe",
    "modelsize": "size",
}
IN_OTHER_UNITS = {
    **dict.fromkeys(("gmacs", "gmac", "tmacs", "tmac", "mmacs", "mmac"), "100.8 GMACs are 100.8e9"),
    **dict.fromkeys(("flops", "gflops", "tflops", "mflops"), "where multiply and add count apart, 2 FLOPs are one"),
}
SEPARATORS = (",", ";", "\t")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SEPARATED = re.compile(r"[+-]?[0-9]+([,'_\s\u2019][0-9]+)+(\.[0-9]*)?")
MAX_DIGITS, MAX_NAME = 15, 80
# Costs of one size that differ more, or of the whole table, are in different units; a network costs more than LEAST.
ONE_SIZE, ONE_TABLE, LEAST = 100.0, 1e7, 1e5
T = TypeVar("T")
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


def load_table(path: Path) -> list[Row]:
    """Read a text table with the columns method, steps, nfe, size, macs, fd and, where wanted, the other `COLUMNS`.

    Columns are separated by commas, semicolons or tabs; columns and methods are known in any case and by the names that
    we print ("Teacher", "sCD"), `FID` is fd. Blank rows and lines that start with # are passed over. Without a seed
    column every seed is 0.

    Raises:
        TableError: names file, line, column and value of the first fault.
    """
    lines = _lines(path)
    records = _records(path, lines)
    number, names = next(records, (1, []))
    header = _header(f"{path}, line {number}", names)
    rows: list[Row] = []
    places: list[int] = []
    spelling: dict[str, str] = {}
    shared: dict[str, str] = {}
    for number, values in records:
        where = f"{path}, line {number}"
        if len(values) != len(header):
            raise TableError(f"{where}: {len(values)} values for {len(header)} columns ({','.join(header)})")
        record = dict(zip(header, values, strict=True))
        _check_shared(where, record, shared)
        rows.append(_parse_row(where, record, spelling))
        places.append(number)
    if not rows:
        raise TableError(f"{path}: a header but no rows")
    _check_units(path, rows, places)
    return rows


def _lines(path: Path) -> list[str]:
    """The lines of the text, those of comments blank, so that lines keep their numbers."""
    try:
        data = path.read_bytes()
        if what := kind_of(data):
            raise TableError(f"{path}: is {what}, expected a text table (CSV)")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if "\0" in text:
        raise TableError(f"{path}: holds NUL characters: it is no text table; export it as CSV in UTF-8")
    return ["\n" if line.lstrip().startswith("#") else line for line in io.StringIO(text, newline=None)]


def _separator(lines: Sequence[str]) -> str:
    """The separator by which the first line that is not blank falls into the most known columns."""
    first = next((line for line in lines if line.strip()), "")
    return max(SEPARATORS, key=lambda separator: sum(_plain(name) in SYNONYMS for name in first.split(separator)))


def _records(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped values of every row that is not blank."""
    reader, number = csv.reader(lines, delimiter=_separator(lines), strict=True), 0
    try:
        for values in reader:
            number = reader.line_num
            stripped = [value.strip() for value in values]
            if any(stripped):
                yield number, stripped
    except csv.Error as error:
        raise TableError(f"{path}, after line {number}: {error}: is a quote open or misplaced?") from error


def _plain(name: str) -> str:
    return re.sub(r"[\s_\"-]", "", name).casefold()


def _header(where: str, names: Sequence[str]) -> list[str]:
    """The known names of the columns."""
    header: list[str] = []
    for position, name in enumerate(names, 1):
        known = SYNONYMS.get(_plain(name))
        if known is None:
            raise TableError(f"{where}: {_unknown(position, name)}")
        if known in header:
            first = names[header.index(known)]
            both = f"{name!r} appears twice" if first == name else f"{first!r} and {name!r} both hold {known}"
            raise TableError(f"{where}: column {both}: keep one")
        header.append(known)
    for name in REQUIRED:
        if name not in header:
            raise TableError(f"{where}: no column {name!r}; the header needs {','.join(REQUIRED)}")
    return header


def _unknown(position: int, name: str) -> str:
    if not name:
        return f"column {position} has no name: name it, or remove it"
    if unit := IN_OTHER_UNITS.get(_plain(name)):
        return f"unknown column {shown(name)}: give macs, the multiply-adds of one forward pass, counted once ({unit})"
    near = difflib.get_close_matches(_plain(name), COLUMNS, n=1, cutoff=0.75)
    hint = f"did you mean {near[0]!r}?" if near else f"remove it; known columns are {','.join(COLUMNS)}"
    return f"unknown column {shown(name)}; {hint}"


def _check_shared(where: str, record: dict[str, str], shared: dict[str, str]) -> None:
    for column in ("metric", "n"):
        value = record.get(column)
        if value is not None and shared.setdefault(column, value) != value:
            raise TableError(
                f"{where}, column {column}: {shown(value)} where the rows above have {shown(shared[column])}; "
                "one analysis needs one metric and one N"
            )


def _parse_row(where: str, record: dict[str, str], spelling: dict[str, str]) -> Row:
    """One row; `spelling` holds how each method and size was first written, whose case later rows need not repeat."""
    method = _parse(where, record, "method", _name, "a name")
    size = _parse(where, record, "size", _name, "a name")
    return Row(
        method=_known_method(method) or spelling.setdefault(f"method {method.casefold()}", method),
        steps=_parse(where, record, "steps", _count, "a whole number above 0"),
        nfe=_parse(where, record, "nfe", _count, "a whole number above 0"),
        size=spelling.setdefault(f"size {size.casefold()}", size),
        seed=_parse(where, record, "seed", _whole, "a whole number") if "seed" in record else 0,
        macs=_parse(where, record, "macs", _positive, "a number above 0"),
        fd=_parse(where, record, "fd", _positive, "a number above 0"),
    )


def _known_method(name: str) -> str | None:
    """Our name of a method that is written as we or the paper print it: "Teacher", "sCD + VSD"."""
    plain = "".join(name.split()).casefold()
    return next((method for method, label in LABELS.items() if plain in (method, label.casefold())), None)


def _parse(where: str, record: dict[str, str], column: str, convert: Callable[[str], T], wanted: str) -> T:
    value = record[column]
    try:
        return convert(value)
    except ValueError as error:
        hint = ": write it without separators, with a point before decimals" if SEPARATED.fullmatch(value) else ""
        raise TableError(f"{where}, column {column}: {shown(value)} is not {wanted}{hint}") from error


def _name(text: str) -> str:
    if not text or len(text) > MAX_NAME or not is_safe(text):
        raise ValueError("empty, too long or not printable")
    return text


def _whole(text: str) -> int:
    if not NUMBER.fullmatch(text) or len(text) > MAX_DIGITS:
        raise ValueError("not a whole number")
    return int(text)


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


def _check_units(path: Path, rows: Sequence[Row], places: Sequence[int]) -> None:
    """TableError where multiply-adds can only be in different units; a warning where all are too few for a network."""
    numbered = sorted(zip(rows, places, strict=True), key=lambda pair: pair[0].macs)
    sizes: dict[str, list[tuple[Row, int]]] = {}
    for row, place in numbered:
        sizes.setdefault(row.size, []).append((row, place))
    for size, of_size in sizes.items():
        _check_spread(path, of_size, ONE_SIZE, f"one size, {size!r}")
    _check_spread(path, numbered, ONE_TABLE, "one table")
    largest, place = numbered[-1]
    if largest.macs < LEAST:
        text = "%s: macs is %g at most (line %d), few for a network: are they GMACs? 1 GMAC is 1e9"
        log.warning(text, path, largest.macs, place)


def _check_spread(path: Path, numbered: Sequence[tuple[Row, int]], most: float, what: str) -> None:
    (least, first), (largest, last) = numbered[0], numbered[-1]
    if largest.macs > most * least.macs:
        raise TableError(
            f"{path}: macs is {least.macs:g} in line {first} and {largest.macs:g} in line {last}, of {what}: is one of "
            "them in another unit? 1 GMAC is 1e9"
        )
