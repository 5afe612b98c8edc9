"""The command line. Heavy imports happen inside commands, so that --help answers at once."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli_model import model_app
from scaling.cli_output import AsJson, show

app = typer.Typer(
    help="Scaling studies of continuous-time consistency models (sCM): train, distil, measure, fit, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
study_app = typer.Typer(help="Plan, run and report a study.", no_args_is_help=True)
data_app = typer.Typer(help="Make and check shards of latents.", no_args_is_help=True)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study file")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="keys to change; `trigscale study keys` lists them all"),
]

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@study_app.command("run")
def study_run(study: StudyFile, overrides: Overrides = None) -> None:
    """Run a study from data to report. The same command again continues what is unfinished."""
    from scaling.study.open import open_study
    from scaling.study.run import run_study

    opened = open_study(study, overrides or [])
    try:
        code = run_study(opened, " ".join(["trigscale", *sys.argv[1:]]))
    except KeyboardInterrupt:
        print("stopped; all is saved. The same command again continues.", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if code == 0:
        print(f"report: {opened.folder / 'report' / 'index.html'}")
    else:
        print("some runs failed, see above; once mended, the same command again continues", file=sys.stderr)
    raise typer.Exit(code)


@study_app.command("plan")
def study_plan(
    study: StudyFile,
    overrides: Overrides = None,
    accelerator: Annotated[
        str | None, typer.Option(help="device to count with; launch.accelerator, else cpu-core")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="devices a run; launch.devices unless given")] = None,
    microbatch: Annotated[
        int | None, typer.Option(help="images a device a pass; launch.microbatch unless given, 0: batch / devices")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="show the memory of this sharding alone")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="assumed share of the device's peak FLOP/s, in (0, 1]")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="take the FLOP/s that this run reached: its folder or metrics.jsonl")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="device-hours: say what fits and what does not")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a study would cost; nothing runs and nothing is written."""
    gc.disable()  # to walk over all that torch brings along, again and again, was a fifth of this short command
    from scaling.plan.build import Options, build_plan
    from scaling.plan.export import plan_json
    from scaling.plan.tables.plan import plan_tables
    from scaling.run.spec import RunData
    from scaling.study.expand import expand
    from scaling.study.open import open_study

    opened = open_study(study, overrides or [])
    unknown = RunData(content_sha256="", held_out_sha256="", encoder=opened.config.data.encoder)
    runs = expand(opened.config, opened.family, unknown)
    options = Options(accelerator, devices, utilisation, measured, microbatch, strategy, budget)
    plan = build_plan(opened.config, opened.family, runs, options)
    show(plan_tables(plan), plan_json(plan), as_json)


@study_app.command("status")
def study_status(study: StudyFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print how far each run of a study is."""
    from scaling.study.open import open_study
    from scaling.study.status import status, status_table

    opened = open_study(study, overrides or [])
    states = status(opened.folder)
    show([status_table(opened.config.name, states)], states, as_json)


@study_app.command("report")
def study_report(study: StudyFile, overrides: Overrides = None) -> None:
    """Write the report of what is done so far."""
    from scaling.report.build import build_report
    from scaling.study.open import open_study

    print(build_report(open_study(study, overrides or []).folder))


@study_app.command("keys")
def study_keys(as_json: AsJson = False) -> None:
    """List every key of a study file: type, default, meaning and unit."""
    from rich.table import Table

    from scaling.config.study import StudyConfig
    from scaling.config.validation import describe

    rows = list(describe(StudyConfig))
    table = Table(title="keys of a study file")
    for heading in ("key", "type", "default", "meaning"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    show([table], [dict(zip(("key", "type", "default", "meaning"), row, strict=True)) for row in rows], as_json)


@data_app.command("pack")
def data_pack(
    images: Annotated[
        Path, typer.Argument(help="an .npz with `images` and `labels`, or a folder with one folder a class")
    ],
    to: Annotated[Path, typer.Option("--to", help="folder of the new shards")],
    encoder: Annotated[str, typer.Option(help="name of the encoder from images to latents")] = "fashion-s2d-v1",
) -> None:
    """Encode images and write them as shards."""
    from data_pipeline.images import load_images
    from data_pipeline.labels import describe_classes
    from scaling.data.sources import known_encoder, pack_images

    chosen = known_encoder(encoder, "--encoder")
    found = load_images(images)
    classes, names = found.num_classes, found.class_names
    manifest = pack_images(found.images, found.labels, chosen, to, images.stem, classes, names)
    print(f"{to}: {manifest.samples:,} samples in {len(manifest.shards)} shards, encoder {manifest.encoder}")
    print(describe_classes(found.labels, classes, names))


@data_app.command("verify")
def data_verify(folder: Annotated[Path, typer.Argument(help="folder of shards")]) -> None:
    """Check every byte of a folder of shards and list all damage."""
    from data_pipeline.verify import verify

    manifest = verify(folder)
    print(f"{folder}: {manifest.samples:,} samples in {len(manifest.shards)} shards are whole")


@data_app.command("info")
def data_info(folder: Annotated[Path, typer.Argument(help="folder of shards")]) -> None:
    """Print the manifest of a folder of shards."""
    from data_pipeline.manifest import Manifest

    manifest = Manifest.load(folder)
    shape = "x".join(map(str, manifest.shape))
    print(f"{manifest.dataset}: {manifest.samples:,} samples {shape} {manifest.dtype}, {manifest.num_classes} classes")
    print(f"encoder {manifest.encoder}, content {manifest.content_sha256}")
    for shard in manifest.shards:
        print(f"  {shard.name}: {shard.samples:,} samples, {shard.bytes:,} bytes")


@app.command("fit")
def fit(
    table: Annotated[str, typer.Argument(metavar="TABLE.csv", help="columns method,steps,nfe,size,macs,fd[,seed]")],
    relative_noise: Annotated[float, typer.Option(min=0.0001, max=1, help="relative noise of each value")] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Fit ratios and power laws to a table of results, e.g. published/scm-imagenet512.csv."""
    from scaling.analysis.summary import analyse, render
    from scaling.analysis.table_file import load_table, resolve_table

    analysis = analyse(load_table(resolve_table(table)), relative_noise=relative_noise)
    show(render(analysis), analysis.to_json(), as_json)


@app.command("sample")
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run")],
    to: Annotated[Path, typer.Option("--to", help="PNG file of the grid of samples")],
    count: Annotated[int, typer.Option(min=1, help="number of samples")] = 100,
    steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps; the run's first choice unless given")
    ] = None,
) -> None:
    """Draw samples from a checkpoint into a PNG."""
    from scaling.commands import sample_to_png

    print(sample_to_png(checkpoint, to, count, steps))


@app.command("evaluate")
def evaluate(
    images: Annotated[Path, typer.Argument(help="an .npz of samples, as runs leave in samples/")],
    reference: Annotated[Path, typer.Option(help="the study's reference-*.npz")],
    as_json: AsJson = False,
) -> None:
    """Judge images by their Frechet distance to the real ones."""
    from scaling.commands import evaluate_npz

    result = evaluate_npz(images, reference)
    show([f"{result['metric']} {result['fd']:.3f} at N = {result['n']} (floor {result['floor']:.3f})"], result, as_json)


@app.command("doctor")
def doctor(as_json: AsJson = False) -> None:
    """Print versions, machine and what is optional and missing."""
    from scaling.commands import diagnose

    facts = diagnose()
    show([f"{key}: {value}" for key, value in facts.items()], facts, as_json)


def usage_errors() -> tuple[type[Exception], ...]:
    """The errors that a user can mend: exit code 2."""
    from data_pipeline.manifest import DataError
    from models.edm2_pickle import EDM2Error
    from models.encoders import EncoderError
    from models.family import FamilyError
    from scaling.analysis.table import TableError
    from scaling.config.validation import ConfigError
    from scaling.errors import ParallelError
    from scaling.report.record import ReportError
    from scaling.run.locks import InUse
    from scaling.training.checkpoints.files import CheckpointError
    from scaling.weights.folder import ModelError

    ours = (ConfigError, FamilyError, DataError, CheckpointError, ParallelError, TableError, ReportError, InUse)
    return (*ours, EDM2Error, EncoderError, ModelError)


def run_cli(command: Callable[[], Any]) -> int:
    """Run the command line and turn errors that a user can mend into one clear message and an exit code."""
    try:
        command()
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except (OSError, *usage_errors()) as error:
        from scaling.errors import explain

        print(f"error: {explain(error)}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_cli(app))


if __name__ == "__main__":
    main()
