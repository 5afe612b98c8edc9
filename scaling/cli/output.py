"""What the commands of the command line share: the option --json, and how results are printed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

NO_WIDTH = 100_000  # columns
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def show(tables: Any, content: Any, as_json: bool) -> None:
    """Print `content` as JSON or the tables for people, on stdout."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    from rich.console import Console

    # Only a terminal has a width: what goes to a file or a pipe is not broken into lines.
    console = Console() if sys.stdout.isatty() else Console(width=NO_WIDTH)
    for each in tables:
        console.print(each, markup=False, highlight=False, emoji=False, soft_wrap=isinstance(each, str))
