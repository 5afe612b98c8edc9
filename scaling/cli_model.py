"""The commands `trigscale model ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from scaling.cli_output import AsJson, show

model_app = typer.Typer(help="Show the families of networks.", no_args_is_help=True)


@model_app.command("list")
def model_list(
    family: Annotated[str, typer.Argument(help="name of a family, or its YAML file")] = "nano", as_json: AsJson = False
) -> None:
    """List the sizes of a family with parameters and multiply-adds."""
    from rich.markup import escape
    from rich.table import Table

    from models.family import count_macs, count_parameters
    from scaling.study import load_family

    rows = [
        {"size": size, "parameters": count_parameters(network), "macs": count_macs(network)}
        for size, network in load_family(family).sizes.items()
    ]
    table = Table(title=f"family {escape(family)}", caption="MACs: multiply-adds of one forward pass of one sample")
    for heading in ("size", "parameters", "MACs"):
        table.add_column(heading, justify="right" if heading != "size" else "left")
    for row in rows:
        table.add_row(str(row["size"]), f"{row['parameters']:,}", f"{row['macs']:,}")
    show([table], rows, as_json)
