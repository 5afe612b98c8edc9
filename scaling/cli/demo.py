"""The command `trigscale demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import AsJson, show


def demo(
    weights: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="releases, runs, checkpoints or `model ema`'s folders")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the loopback interface; 0: a free one")] = 0,
    vae: Annotated[Path | None, typer.Option(help="of networks of latents: folder of the VAE that decodes")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw samples on a local page: by class, steps, guidance and seed, several networks on the same noise."""
    from scaling.demo.drawing import Gallery
    from scaling.demo.server import DemoServer
    from scaling.run.devices import any_device

    gallery = Gallery(weights, any_device(), vae)
    with DemoServer(gallery.facts(), gallery.draw, port) as server:
        show([f"{server.address} (Ctrl-C ends it)"], {"address": server.address, **gallery.facts()}, as_json)
        sys.stdout.flush()  # whoever reads a pipe has no other sign that it serves
        server.serve_forever()
