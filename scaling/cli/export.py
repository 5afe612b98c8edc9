"""The command `trigscale export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import AsJson, show


def export(
    weights: Annotated[
        Path, typer.Argument(help="a student: a release, a run's folder, one of its checkpoints, or `model ema`'s")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE|DIR", help="FILE.onnx, FILE.pt2 (torch.export), or DIR: diffusers'")
    ],
    steps: Annotated[int | None, typer.Option(min=1, max=2, help="of a file: sampling steps; 1 unless given")] = None,
    vae: Annotated[Path | None, typer.Option(help="of a folder of latents: its VAE's, which is copied along")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a consistency model for others: as an ONNX file, a graph of torch.export, or a folder of diffusers."""
    from scaling.release.export import export as write

    facts = write(weights, to, steps=steps, vae=vae)
    lines = [f"{key}: {value}" for key, value in facts.items()]
    show(lines, facts, as_json)
