"""The rows of one or several sources: tables in files, published tables, folders of studies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaling.analysis.columns import Choice, parse_choice
from scaling.analysis.table import Row, TableError, load_scores
from scaling.analysis.table_file import load_table, resolve_table

log = logging.getLogger(__name__)


def gather(sources: Sequence[str], columns: Sequence[str] = ()) -> list[Row]:
    """All rows of the sources. With several, methods are named after their source where two have one of a name.

    `columns` are the user's words on the columns of the files. Raises TableError or DamagedError naming the source.
    """
    chosen = [parse_choice(text) for text in columns]
    tables = [
        load_scores(Path(one)) if Path(one).is_dir() else load_table(resolve_table(one), chosen) for one in sources
    ]
    if len(tables) == 1:
        return tables[0]
    return [row for source, rows in zip(_names(sources), tables, strict=True) for row in _named(rows, source, tables)]


def _read(source: str, chosen: Sequence[Choice]) -> list[Row]:
    return load_scores(Path(source)) if Path(source).is_dir() else load_table(resolve_table(source), chosen)


def _names(sources: Sequence[str]) -> list[str]:
    """The last parts of paths, or the whole paths where two end alike."""
    short = [Path(one).stem for one in sources]
    return short if len(set(short)) == len(short) else [*sources]


def _named(rows: Sequence[Row], source: str, tables: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of one of several sources. Only teachers keep their name, with the sizes of their source."""
    holding = {method: sum(any(row.method == method for row in table) for table in tables) for method in _methods(rows)}
    if all(count == 1 for count in holding.values()):
        return [*rows]
    return [replace(row, size=f"{source}:{row.size}", place=f"{source}, {row.place}") for row in rows]


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def drop(rows: Sequence[Row], highest: int) -> list[Row]:
    """The rows without so many of the highest scores, which is said with their places. TableError where none is
    left.
    """
    if not highest:
        return [*rows]
    if highest >= len(rows):
        raise TableError(f"--drop-highest {highest}: the table has {len(rows)} rows of this metric; leave some")
    order = sorted(range(len(rows)), key=lambda index: -rows[index].fd)
    dropped = set(order[:highest])
    places = ", ".join(f"{rows[index].place} ({rows[index].fd:.4g})" for index in order[:highest][:8])
    log.warning("left out, the %d highest scores: %s", highest, places)
    return [row for index, row in enumerate(rows) if index not in dropped]
