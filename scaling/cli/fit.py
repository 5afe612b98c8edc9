"""The command `trigscale fit`: laws of any table, or of studies."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import AsJson, show

if TYPE_CHECKING:
    from scaling.analysis.summary import Analysis
    from scaling.analysis.table import Row


def fit(
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...",
            help="CSV files with a score and a cost, published/NAME.csv, or folders of studies",
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(help="what a column holds: fd=FID, 'macs=GMACs*1e9'; several fd= are several metrics"),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="this metric alone; else each is analysed by itself")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="macs, parameters, training, images, sampling, evaluated, image; the first that there is"),
    ] = None,
    predict: Annotated[list[str] | None, typer.Option(help="a size, such as xxl, or macs=5.5e11")] = None,
    hold_out: Annotated[int, typer.Option(min=0, help="largest sizes that are predicted from the others")] = 1,
    relative_noise: Annotated[
        float | None,
        typer.Option(min=0.0001, max=1, help="assume this scatter of one score; else it is estimated"),
    ] = None,
    law: Annotated[
        str | None, typer.Option(help="surface: E + A/N^alpha + B/D^beta; isoflop: parabolas at equal training compute")
    ] = None,
    drop_highest: Annotated[int, typer.Option(min=0, help="leave out so many of the highest scores")] = 0,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="folder for figures of scores and ratios against costs")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit ratios and scaling laws to results, with intervals: e.g. published/scm-imagenet512.csv --predict xxl."""
    from scaling.analysis.axis import by_metric
    from scaling.analysis.gather import drop, gather

    shown: list[Any] = []
    found: list[dict[str, Any]] = []
    with _uncollected():
        groups = by_metric(gather(tables, column or []), metric)
        figures = _figures(groups, to) if to is not None else []
        for name, group in groups.items():
            rows = drop(group, drop_highest)
            shown += [f"{name or 'score'}{f' at N = {rows[0].n:,}' if rows[0].n else ''}"] if len(groups) > 1 else []
            if law is not None:
                from scaling.cli.surface_tables import fit_law

                lines, content = fit_law(law, rows, predict or [])
                shown += lines
                found.append({"metric": name, **content})
                continue
            analysis = _analyse(rows, against, predict or [], hold_out, relative_noise)
            if as_json:
                found.append(analysis.to_json())
            else:
                from scaling.cli.fit_tables import render

                shown += render(analysis)
        content = {"tables": [str(Path(table)) for table in tables], "analyses": found}
        content |= {"figures": figures} if to is not None else {}
        show([*shown, *figures], content, as_json)


def _analyse(
    rows: Sequence[Row], against: str | None, predict: Sequence[str], hold_out: int, relative_noise: float | None
) -> Analysis:
    """The analysis of one metric's rows."""
    from scaling.analysis.axis import default_axis
    from scaling.analysis.summary import analyse

    axis = against or default_axis(rows)
    targets: dict[str, float] = {}
    if predict:
        from scaling.analysis.targets import resolve_targets

        targets = resolve_targets(predict, rows, axis)
    return analyse(rows, relative_noise=relative_noise, axis=axis, hold_out=hold_out, targets=targets)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: a long table is hundreds of thousands of objects that are no garbage, and to
    look through them again and again takes a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _figures(groups: Mapping[str, Sequence[Row]], folder: Path) -> list[str]:
    """The files of the figures of each metric."""
    from scaling.config.metrics import metric_label
    from scaling.report.cost_figures import write_figures

    made: list[str] = []
    for name, rows in groups.items():
        label = metric_label(name) if name else "Score"
        made += map(str, write_figures(rows, label, folder, f"costs-{name}" if name else "costs"))
    return made
