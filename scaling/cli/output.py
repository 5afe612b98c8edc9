"""What the commands of the command line share: the option --json, and how results are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

NewFolder = Annotated[Path, typer.Option("--to", metavar="DIR", help="new folder; those above it are made too")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def show(tables: Any, content: Any, as_json: bool) -> None:
    """Print `content` as JSON or the tables for people, on stdout."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from scaling.tables import NO_WIDTH, least_width, records

    # Only a terminal has a width: what goes to a file or a pipe is not broken into lines.
    console = Console() if sys.stdout.isatty() else Console(width=NO_WIDTH)
    for each in tables:
        narrow = isinstance(each, Table) and least_width(each, console) > console.width
        for part in records(each) if isinstance(each, Table) and narrow else (each,):
            text = isinstance(part, str)  # as it is; in tables markup is ours, and what comes from files is escaped
            console.print(part, markup=not text, highlight=False, emoji=False, soft_wrap=narrow or text)
