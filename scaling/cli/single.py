"""The commands on single files and on this machine: fit, sample, evaluate, doctor."""

from __future__ import annotations

from pathlib import Path
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


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run")],
    to: Annotated[Path, typer.Option("--to", help="PNG file of the grid of samples")],
    count: Annotated[int, typer.Option(min=1, help="number of samples")] = 100,
    steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps; the run's first choice unless given")
    ] = None,
) -> None:
    """Draw samples from a checkpoint into a PNG."""
    from scaling.work.single import sample_to_png

    print(sample_to_png(checkpoint, to, count, steps))


def evaluate(
    images: Annotated[Path, typer.Argument(help="an .npz of samples, as runs leave in samples/")],
    reference: Annotated[Path, typer.Option(help="the study's reference-*.npz")],
    as_json: AsJson = False,
) -> None:
    """Judge images by their Frechet distance to the real ones."""
    from scaling.work.single import evaluate_npz

    result = evaluate_npz(images, reference)
    show([f"{result['metric']} {result['fd']:.3f} at N = {result['n']} (floor {result['floor']:.3f})"], result, as_json)


def doctor(as_json: AsJson = False) -> None:
    """Print versions, machine and what is optional and missing."""
    from scaling.study.machine import diagnose

    facts = diagnose()
    show([f"{key}: {value}" for key, value in facts.items()], facts, as_json)
