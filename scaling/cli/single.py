"""The commands on single files and on this machine: sample, evaluate, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import AsJson, show


def sample(
    weights: Annotated[
        Path,
        typer.Argument(help="what holds weights: a run's folder, one of its checkpoints, or a folder of `model ema`"),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="FILE.png: one picture; FILE.npz: images and labels")
    ],
    count: Annotated[int, typer.Option(min=1, help="number of samples")] = 100,
    steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps; the run's first choice unless given")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw samples of a trained network into a picture, or into a file that `evaluate` reads."""
    from scaling.work.single import sample_to

    facts = sample_to(weights, to, count, steps)
    show([facts["file"]], facts, as_json)


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
    parts = facts["optional"]
    lines = [f"{key}: {value}" for key, value in facts.items() if key != "optional"]
    lines += [f"{name}: {part['found'] or part['install']} ({part['for']})" for name, part in parts.items()]
    show(lines, facts, as_json)
