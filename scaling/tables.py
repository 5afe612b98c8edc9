"""Tables for a terminal: one look for all of them, and nothing in them is cut off."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def table(title: str, headings: Iterable[str], caption: str | None = None) -> Table:
    """An empty table; a column whose heading starts with ">" stands to the right. Title and caption are plain text."""
    made = Table(title=escape(title), caption=caption and escape(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.title_justify = made.caption_justify = "left"
    for heading in headings:
        made.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")
    return made


def right(*headings: str) -> tuple[str, ...]:
    """Headings of columns that stand to the right, as numbers do."""
    return tuple(f">{heading}" for heading in headings)


def add(made: Table, *cells: str) -> None:
    """Add a row of plain text: names from files are text, whatever brackets they hold."""
    made.add_row(*map(Text, cells))
