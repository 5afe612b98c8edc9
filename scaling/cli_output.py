"""What the commands of the command line share: the option --json, and how results are printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def show(tables: Any, content: Any, as_json: bool) -> None:
    """Print `content` as JSON or the tables for people, on stdout."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)
