"""The command line. Heavy imports happen inside commands, so that --help answers at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import typer

from scaling.cli.data import data_app
from scaling.cli.model import model_app
from scaling.cli.single import doctor, evaluate, fit, sample
from scaling.cli.study import study_app

EXIT_FAILED, EXIT_USAGE = 1, 2

app = typer.Typer(
    help="Scaling studies of continuous-time consistency models (sCM): train, distil, measure, fit, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
for command in (fit, sample, evaluate, doctor):
    app.command(command.__name__)(command)


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
    from scaling.run.locks import LockError
    from scaling.training.checkpoints.files import CheckpointError
    from scaling.weights.folder import ModelError

    ours = (ConfigError, FamilyError, DataError, CheckpointError, ParallelError, TableError, ReportError, LockError)
    return (*ours, EDM2Error, EncoderError, ModelError)


def run_cli(command: Callable[[], Any]) -> int:
    """Run the command line and turn errors that a user can mend into one clear message and an exit code."""
    try:
        command()
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED
    except (OSError, *usage_errors()) as error:
        from scaling.errors import explain

        print(f"error: {explain(error)}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def run() -> int:
    """Run the command that was given to this process and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return run_cli(app)
