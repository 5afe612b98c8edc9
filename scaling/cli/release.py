"""The commands `trigscale release ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from scaling.cli.output import AsJson, NewFolder, show


class _RunFirst(TyperGroup):
    """`release RUN --to DIR` beside `release verify DIR`: what is no command's name goes to `make`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["make", *args])


release_app = typer.Typer(
    cls=_RunFirst,
    help="Folders of weights for others to load, sample and distil from: `trigscale release RUN --to DIR`.",
    no_args_is_help=True,
)


@release_app.command("make")
def release_make(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="folder of a run, or one of its checkpoints")],
    to: NewFolder,
    dtype: Annotated[str, typer.Option(help="of the parameters: fp32, bf16 or fp16")] = "fp32",
    sigma_rel: Annotated[
        float | None, typer.Option(help="width of the average; the run's own choice of sampling unless given")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the weights of the last step, and no average of them")] = False,
    max_error: Annotated[
        float, typer.Option(min=0, help="largest profile_error, as a share, of an average made after training")
    ] = 0.05,
    licence: Annotated[str | None, typer.Option(help="what others may do with the weights, such as CC-BY-4.0")] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="release although configuration or data are not known")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Release a run: weights, what they are, how well they do, and how they were made. (`make` may be left out.)"""
    from scaling.config.validation import ConfigError, choices
    from scaling.release.chosen import Wanted
    from scaling.release.make import Options, release

    if dtype not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"--dtype {dtype}: {choices(dtype, ['fp32', 'bf16', 'fp16'])}")
    if raw and sigma_rel is not None:
        raise ConfigError("--raw: is the weights themselves, --sigma-rel an average of them: leave one out")
    options = Options(Wanted(sigma_rel, raw, max_error), dtype, licence, unverified)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    saved = release(run, to, options)
    facts: dict[str, Any] = {"folder": str(saved.folder), "sha256": saved.sha256}
    show([f"{saved.folder}: {saved.description.parameters:,} parameters, {dtype}"], facts, as_json)
