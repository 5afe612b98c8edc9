"""Tables for a terminal: one look for all of them, and nothing that is copied from them is cut off or broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NO_WIDTH = 100_000  # columns: of what goes to a file or a pipe


def table(title: str, headings: Iterable[str], caption: str | None = None) -> Table:
    """An empty table; a column whose heading starts with ">" stands to the right. Title and caption are plain text.

    The first column holds names and those to the right hold numbers: neither is broken into lines.
    """
    made = Table(title=escape(title), caption=caption and escape(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.title_justify = made.caption_justify = "left"
    for number, heading in enumerate(headings):
        to_right = heading.startswith(">")
        justify = "right" if to_right else "left"
        made.add_column(heading.lstrip(">"), justify=justify, overflow="fold", no_wrap=to_right or number == 0)
    return made


def right(*headings: str) -> tuple[str, ...]:
    """Headings of columns that stand to the right, as numbers do."""
    return tuple(f">{heading}" for heading in headings)


def add(made: Table, *cells: str) -> None:
    """Add a row of plain text: names from files are text, whatever brackets they hold."""
    made.add_row(*map(Text, cells))


def least_width(made: Table, console: Console) -> int:
    """The fewest columns of a terminal that show the table with its names, numbers and words whole."""
    for column in made.columns:
        if column.no_wrap:  # rich takes the longest word for the least
            column.min_width = max(_text(cell).cell_len for cell in (column.header, *column.cells))
    return Measurement.get(console, console.options.update(max_width=NO_WIDTH), made).minimum


def records(made: Table) -> Iterator[Text]:
    """A table that is wider than the terminal, line by line: each row as its name and, below it, what it says."""
    headings = [_text(column.header) for column in made.columns]
    yield _text(made.title)
    for name, *cells in zip(*(column.cells for column in made.columns), strict=True):
        yield Text("\n").append_text(_text(name))
        yield from (
            Text("  ").append_text(heading).append(": " if heading else "").append_text(_text(cell))
            for heading, cell in zip(headings[1:], cells, strict=True)
            if cell
        )
    if made.caption:
        yield Text("\n").append_text(_text(made.caption))


def _text(cell: RenderableType | None) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(str(cell or ""))
