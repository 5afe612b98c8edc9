"""The commands `trigscale data ...`."""

from __future__ import annotations

import time
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
        Path,
        typer.Argument(
            help="an .npz with `images` and `labels`, CIFAR's binary files, a folder with one folder a class, a zip, "
            "or webdataset tars"
        ),
    ],
    to: NewFolder,
    encoder: Annotated[str, typer.Option(help="encoder from pixels to latents, by name")] = "fashion-s2d-v1",
    size: Annotated[
        int | None, typer.Option(min=1, help="resize and crop to squares of this many pixels; else all have one size")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write images as shards of pixels, or of what a formula makes of them."""
    from data_pipeline.labels import describe_classes
    from scaling.config.encoders import known_encoder
    from scaling.data.pack import pack

    manifest, labels, counts = pack(images, known_encoder(encoder, "--encoder"), to, size)
    converted = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    lines = [
        f"{to}: {manifest.samples:,} samples in {len(manifest.shards)} shards, encoder {manifest.encoder}",
        describe_classes(labels, manifest.num_classes, manifest.class_names),
        *([f"images of other kinds, converted: {converted}"] if converted else []),
    ]
    show(lines, _facts(to, manifest), as_json)


@data_app.command("encode")
def data_encode(
    images: Annotated[
        Path,
        typer.Argument(
            help="a folder with one folder a class, a zip, webdataset tars (one, or a folder), an archive of ImageNet"
        ),
    ],
    to: NewFolder,
    vae: Annotated[Path, typer.Option(metavar="DIR", help="folder of an AutoencoderKL, as diffusers saves it")],
    encoder: Annotated[str, typer.Option(help="encoder: a known name, a file, or with --new a new name")],
    size: Annotated[
        int, typer.Option(min=1, help="images are resized and cropped to squares of this many pixels")
    ] = 512,
    mirror: Annotated[bool, typer.Option("--mirror", help="encode the mirror image of every image too")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="the name is new: `data info --fit-encoder` measures its constants afterwards")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="processes of this task; each GPU wants one")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    shard_samples: Annotated[int, typer.Option(min=1, help="samples a shard, rounded up to whole passes")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Encode images by a VAE and write mean and standard deviation of their latents as shards.

    Stopped and started again it continues. Under torchrun or srun each task takes its share of the shards.
    """
    from data_pipeline.sources.find import find_source
    from models.vae import find_vae
    from scaling.data.encode import Job, encoder_to_write
    from scaling.data.encode_run import encode

    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{device!r}: set auto, cpu or cuda", param_hint="--device")
    found = find_vae(vae)
    name, low = encoder_to_write(encoder, found, new)
    manifest = encode(Job(find_source(images), found, low, name, size, mirror), to, shard_samples, processes, device)
    if manifest is None:
        show([f"{to}: this task's share is written, others are at work"], {"folder": str(to), "done": False}, as_json)
        return
    line = f"{to}: {manifest.samples:,} samples in {len(manifest.shards)} shards, encoder {manifest.encoder}"
    show([line, *_made(manifest)], _facts(to, manifest), as_json)


@data_app.command("import-edm2")
def data_import_edm2(
    latents: Annotated[Path, typer.Argument(metavar="ZIP", help="zip of latents by EDM2's dataset_tool.py encode")],
    to: NewFolder,
    shard_samples: Annotated[int, typer.Option(min=1, help="samples a shard")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Write EDM2's latents (mean and standard deviation) as shards; stopped and started again it continues."""
    from scaling.data.import_edm2 import import_edm2

    manifest = import_edm2(latents, to, shard_samples)
    line = f"{to}: {manifest.samples:,} samples in {len(manifest.shards)} shards, encoder {manifest.encoder}"
    show([line, *_made(manifest)], _facts(to, manifest), as_json)


@data_app.command("verify")
def data_verify(
    folder: Shards,
    processes: Annotated[
        int | None, typer.Option(min=1, help="processes that check shards; up to one a core unless given")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a folder of shards and list all damage."""
    from data_pipeline.verify import verify

    begun = time.monotonic()
    manifest = verify(folder, processes)
    seconds, size = time.monotonic() - begun, sum(shard.bytes for shard in manifest.shards)
    rate = f"{size / 2**20:,.0f} MiB in {seconds:.1f} s"
    line = f"{folder}: {manifest.samples:,} samples in {len(manifest.shards)} shards are whole ({rate})"
    show([line], _facts(folder, manifest), as_json)


@data_app.command("info")
def data_info(
    folder: Shards,
    fit_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="measure the channels, and write the encoder that a study can name"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of that encoder; the shards' own unless given")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a folder of shards holds: classes, copies; with --fit-encoder make an encoder of its statistics."""
    from data_pipeline.census import describe_census, take_census
    from data_pipeline.manifest import Manifest

    manifest, census = Manifest.load(folder), take_census(folder)
    fitted = None
    if fit_encoder is not None:
        from scaling.data.statistics import fit_encoder as fit

        fitted = fit(folder, fit_encoder, name)
    shape = "x".join(map(str, manifest.shape))
    kind = " (mean and standard deviation)" if manifest.moments else ""
    lines = [
        f"{manifest.dataset}: {manifest.samples:,} samples {shape}{kind} {manifest.dtype}, "
        f"{manifest.num_classes} classes",
        f"encoder {manifest.encoder}, content {manifest.content_sha256}",
        *_made(manifest),
        *describe_census(census, manifest.num_classes, manifest.class_names),
        *(f"  class {label}: {name}" for label, name in enumerate(manifest.class_names or ())),
        *(f"  {shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes" for shard in manifest.shards),
        *([f"{fit_encoder}: encoder {fitted.name}: set data.encoder={fit_encoder}"] if fitted else []),
    ]
    facts = _facts(folder, manifest) | {"class_counts": census.counts.tolist(), "copies": len(census.copies)}
    facts |= {"encoder_file": fitted.model_dump(mode="json")} if fitted else {}
    show(lines, facts, as_json)


@data_app.command("stats")
def data_stats(
    folder: Shards,
    samples: Annotated[int | None, typer.Option(min=1, help="of the first so many samples; all unless given")] = None,
    as_json: AsJson = False,
) -> None:
    """Print mean and standard deviation of the latents in each channel."""
    from scaling.data.statistics import channel_statistics
    from scaling.tables import right, table

    found = channel_statistics(folder, samples)
    made = table(f"{folder}: latents of {found.samples:,} samples", ("channel", *right("mean", "standard deviation")))
    for channel, (mean, std) in enumerate(zip(found.mean, found.std, strict=True)):
        made.add_row(str(channel), f"{mean:.5f}", f"{std:.5f}")
    show([made], {"folder": str(folder), **asdict(found)}, as_json)


def _made(manifest: Manifest) -> list[str]:
    """A line on how the samples were made."""
    made = manifest.made or {}
    return [", ".join(f"{key} {value}" for key, value in made.items())] if made else []


def _facts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {"folder": str(folder), **asdict(manifest)}
