"""What the tables of a plan share."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table

LABELS = {"teacher": "teacher", "sct": "sCT", "scd": "sCD", "vsd": "sCD+VSD"}


def table(title: str, headings: Iterable[str], caption: str | None = None) -> Table:
    """An empty table: the first column to the left, others to the right; nothing is cut off where space is short."""
    made = Table(title=escape(title), caption=caption and escape(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.title_justify = made.caption_justify = "left"
    for n, heading in enumerate(headings):
        made.add_column(heading, justify="right" if n else "left", overflow="fold")
    return made
