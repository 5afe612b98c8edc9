"""The commands `trigscale release ...` and `trigscale study release`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from scaling.cli.output import AsJson, NewFolder, show
from scaling.cli.study import study_app

if TYPE_CHECKING:
    from scaling.release.make import Options


class _RunFirst(TyperGroup):
    """`release RUN --to DIR` beside `release verify DIR`: what is no command's name goes to `make`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["make", *args])


release_app = typer.Typer(
    cls=_RunFirst,
    help="Folders of weights for others to load, sample and distil from. `trigscale release RUN --to DIR` makes one "
    "(`make` may be left out).",
    no_args_is_help=True,
)

Dtype = Annotated[str, typer.Option(help="of the parameters: fp32, bf16 or fp16")]
Licence = Annotated[str | None, typer.Option(help="what others may do with the weights, such as CC-BY-4.0")]
PictureVae = Annotated[
    Path | None, typer.Option(help="of networks of latents: folder of the VAE that decodes their pictures")
]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="release although configuration or data are not known; the card says it")
]


@release_app.command("make")
def release_make(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|CHECKPOINT|DIR", help="a run's folder, one of its checkpoints, or weights at rest"),
    ],
    to: NewFolder,
    dtype: Dtype = "fp32",
    sigma_rel: Annotated[
        float | None, typer.Option(help="width of the average; the run's own choice of sampling unless given")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the weights of the last step, and no average of them")] = False,
    max_error: Annotated[
        float, typer.Option(min=0, help="largest profile_error, as a share, of an average made after training")
    ] = 0.05,
    licence: Licence = None,
    vae: PictureVae = None,
    unverified: Unverified = False,
    as_json: AsJson = False,
) -> None:
    """Release a run: its weights, what they are, how well they do, and how they were made."""
    from scaling.config.validation import ConfigError
    from scaling.release.chosen import Wanted
    from scaling.release.make import release

    if raw and sigma_rel is not None:
        raise ConfigError("--raw: is the weights themselves, --sigma-rel an average of them: leave one out")
    saved = release(run, to, _options(dtype, licence, vae, unverified, Wanted(sigma_rel, raw, max_error)))
    facts: dict[str, Any] = {"folder": str(saved.folder), "sha256": saved.sha256}
    lines = [f"{saved.folder}: {saved.description.parameters:,} parameters, {dtype}, SHA-256 {saved.sha256}"]
    show([*lines, *_without_licence(saved.description.licence)], facts, as_json)


@release_app.command("verify")
def release_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of a release, or of those of a study")],
    vae: PictureVae = None,
    as_json: AsJson = False,
) -> None:
    """Hash every file of a release, load it, draw its picture of samples again and compare."""
    from scaling.release.verify import told, verify_all

    found = verify_all(folder, vae)
    show([line for facts in found for line in told(facts)], found, as_json)


@release_app.command("push")
def release_push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of a release")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="of the Hugging Face Hub; made if missing")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go up, and send nothing")] = False,
    private: Annotated[bool, typer.Option("--private", help="a new repository is for its owner alone")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a release to the Hugging Face Hub in one commit; the token is that of `hf auth login`."""
    from scaling.release.hub import plan_push, push

    plan = plan_push(folder, repository)
    facts = {**plan.facts(), "commit": None if dry_run else push(plan, private=private)}
    lines = [f"{size:>14,}  {name}" for name, size in plan.files.items()]
    done = "would go" if dry_run else "went"
    lines.append(f"{facts['bytes']:>14,}  bytes {done} to {repository} under licence {plan.licence}")
    show(lines if dry_run else [*lines, facts["commit"]], facts, as_json)


@study_app.command("release")
def study_release(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="a study: its file, name, or folder of runs")],
    to: NewFolder,
    dtype: Dtype = "fp32",
    licence: Licence = None,
    vae: PictureVae = None,
    unverified: Unverified = False,
    as_json: AsJson = False,
) -> None:
    """Release every finished run of a study, with one card that compares them."""
    from scaling.release.whole_study import release_study
    from scaling.study.open import open_study

    folder = study if study.is_dir() else open_study(study).folder
    made = release_study(folder, to, _options(dtype, licence, vae, unverified))
    facts = {
        "folder": str(to),
        "releases": {name: saved.sha256 for name, saved in made.releases.items()},
        "left_out": made.left_out,
    }
    lines = [f"{to}: {len(made.releases)} releases, {', '.join(made.releases)}"]
    lines += [f"not done, and left out: {', '.join(made.left_out)}"] if made.left_out else []
    licences = [saved.description.licence for saved in made.releases.values()]
    show([*lines, *_without_licence(licences[0])], facts, as_json)


def _options(dtype: str, licence: str | None, vae: Path | None, unverified: bool, wanted: Any = None) -> Options:
    """What was chosen; ConfigError names the option."""
    from data_pipeline.text import is_safe, shown
    from models.release import PRECISIONS
    from scaling.config.sections import Precision
    from scaling.config.validation import ConfigError, choices
    from scaling.release.chosen import Wanted
    from scaling.release.make import Options

    if dtype not in PRECISIONS:
        raise ConfigError(f"--dtype {dtype}: {choices(dtype, [*PRECISIONS])}")
    if licence is not None and (not licence.strip() or not is_safe(licence)):
        raise ConfigError(f"--licence {shown(licence)}: name one in a line, such as CC-BY-4.0, or leave it out")
    return Options(wanted or Wanted(), cast(Precision, dtype), licence, vae, unverified)


def _without_licence(licence: str | None) -> list[str]:
    """What to know of a release that names no licence."""
    return [] if licence else ["it names no licence, so nobody may use it: --licence says what others may do"]
