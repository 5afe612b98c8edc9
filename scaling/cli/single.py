"""The commands on single files and on this machine: fit, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from scaling.cli.output import AsJson, show


def fit(
    table: Annotated[str, typer.Argument(metavar="TABLE.csv", help="columns method,steps,nfe,size,macs,fd[,seed]")],
    relative_noise: Annotated[float, typer.Option(min=0.0001, max=1, help="relative noise of each value")] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Fit ratios and power laws to a table of results, e.g. published/scm-imagenet512.csv."""
    from scaling.analysis.summary import analyse
    from scaling.analysis.table_file import load_table, resolve_table
    from scaling.cli.fit_tables import render

    analysis = analyse(load_table(resolve_table(table)), relative_noise=relative_noise)
    show(render(analysis), analysis.to_json(), as_json)


def doctor(as_json: AsJson = False) -> None:
    """Print versions, machine and what is optional and missing."""
    from scaling.study.machine import diagnose

    facts = diagnose()
    parts = facts["optional"]
    lines = [f"{key}: {value}" for key, value in facts.items() if key not in ("optional", "networks")]
    lines += [f"{name}: {part['found'] or part['install']} ({part['for']})" for name, part in parts.items()]
    lines += [f"{name}: {one['found'] or one['get']} ({one['for']})" for name, one in facts["networks"].items()]
    show(lines, facts, as_json)
