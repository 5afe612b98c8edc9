"""The commands `trigscale data ...`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import AsJson, NewFolder, show

if TYPE_CHECKING:
    from data_pipeline.manifest import Manifest

Shards = Annotated[Path, typer.Argument(help="folder of shards")]

data_app = typer.Typer(help="Make and check shards of latents.", no_args_is_help=True)


@data_app.command("pack")
def data_pack(
    images: Annotated[
        Path, typer.Argument(help="an .npz with `images` and `labels`, or a folder with one folder a class")
    ],
    to: NewFolder,
    encoder: Annotated[str, typer.Option(help="name of the encoder from images to latents")] = "fashion-s2d-v1",
    as_json: AsJson = False,
) -> None:
    """Encode images and write them as shards."""
    from data_pipeline.images import load_images
    from data_pipeline.labels import describe_classes
    from scaling.config.encoders import known_encoder
    from scaling.data.sources import pack_images

    chosen = known_encoder(encoder, "--encoder")
    found = load_images(images)
    classes, names = found.num_classes, found.class_names
    manifest = pack_images(found.images, found.labels, chosen, to, images.stem, classes, names)
    line = f"{to}: {manifest.samples:,} samples in {len(manifest.shards)} shards, encoder {manifest.encoder}"
    show([line, describe_classes(found.labels, classes, names)], _facts(to, manifest), as_json)


@data_app.command("verify")
def data_verify(folder: Shards, as_json: AsJson = False) -> None:
    """Check every byte of a folder of shards and list all damage."""
    from data_pipeline.verify import verify

    manifest = verify(folder)
    line = f"{folder}: {manifest.samples:,} samples in {len(manifest.shards)} shards are whole"
    show([line], _facts(folder, manifest), as_json)


@data_app.command("info")
def data_info(folder: Shards, as_json: AsJson = False) -> None:
    """Print the manifest of a folder of shards, how even its classes are, and which samples repeat others."""
    from data_pipeline.manifest import Manifest
    from data_pipeline.survey import survey

    manifest = Manifest.load(folder)
    shape = "x".join(map(str, manifest.shape))
    lines = [
        f"{manifest.dataset}: {manifest.samples:,} samples {shape} {manifest.dtype}, {manifest.num_classes} classes",
        f"encoder {manifest.encoder}, content {manifest.content_sha256}",
        *(f"  class {label}: {name}" for label, name in enumerate(manifest.class_names or ())),
        *(f"  {shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes" for shard in manifest.shards),
    ]
    found = survey(folder)
    show([*lines, *found.lines()], {**_facts(folder, manifest), **asdict(found)}, as_json)


def _facts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {"folder": str(folder), **asdict(manifest)}
