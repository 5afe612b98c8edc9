"""The command line. Heavy imports happen inside commands, so that --help answers at once."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from data_pipeline.errors import UserError
from scaling.cli.data import data_app
from scaling.cli.demo import demo
from scaling.cli.evaluation import evaluate, ruler_app
from scaling.cli.export import export
from scaling.cli.fit import fit
from scaling.cli.model import model_app
from scaling.cli.release import release_app
from scaling.cli.sampling import sample
from scaling.cli.single import doctor
from scaling.cli.study import study_app

EXIT_FAILED, EXIT_USAGE = 1, 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"trigscale {importlib.metadata.version('trigscale')}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(ruler_app, name="ruler")
app.add_typer(release_app, name="release")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version and exit")
    ] = False,
) -> None:
    """Scaling studies of continuous-time consistency models (sCM): train, distil, measure, fit, report."""


for command in (fit, sample, evaluate, demo, export, doctor):
    app.command(command.__name__)(command)


def run_cli(command: Callable[[], Any]) -> int:
    """Run the command line and turn errors that a user can mend into one clear message and an exit code."""
    try:
        command()
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED
    except (OSError, UserError) as error:
        from scaling.errors import explain

        print(f"error: {explain(error)}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def run() -> int:
    """Run the command that was given to this process and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("scaling", "slurm", "data_pipeline", "models"):  # libraries speak up only when something is wrong
        logging.getLogger(name).setLevel(logging.INFO)
    return run_cli(app)
