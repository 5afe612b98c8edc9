"""The commands `trigscale model ...`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import AsJson, NewFolder, show

if TYPE_CHECKING:
    from rich.table import Table

    from models.network import NetworkConfig
    from scaling.weights.folder import SavedModel

MACS = (
    "multiply-adds of one forward pass of one sample, each counted once; EDM2's own figures hold element-wise work too"
)
ERROR = "profile_error: relative L2 distance of the profile from that of sigma_rel"
FIDS = "EDM2 without guidance/with; the paper's TrigFlow teacher; consistency models in 1/2 steps"

model_app = typer.Typer(help="Families of networks, EDM2's checkpoints and weights at rest.", no_args_is_help=True)


class As(Enum):
    """What an imported network gives: EDM2's F, or TrigFlow's."""

    edm = "edm"
    trigflow_teacher = "trigflow-teacher"


@model_app.command("list")
def model_list(
    family: Annotated[str | None, typer.Argument(help="name of a family, or its YAML file; all unless given")] = None,
    as_json: AsJson = False,
) -> None:
    """List the sizes of families: parameters, multiply-adds, and what was published of them."""
    from scaling.config.families import load_family
    from scaling.plan.sizes import describe_sizes

    names = [family] if family is not None else _family_names()
    rows = {name: describe_sizes(load_family(name)) for name in names}
    tables = [made for item in rows.items() for made in _tables(*item)]
    show(tables, [row for group in rows.values() for row in group], as_json)


@model_app.command("show")
def model_show(
    target: Annotated[str, typer.Argument(metavar="DIR|FAMILY/SIZE", help="a folder of weights, or a preset")],
    as_json: AsJson = False,
) -> None:
    """Show one network: its shape, parameters, multiply-adds, parameterization and where its weights come from."""
    from scaling.weights.folder import load_model

    facts = _facts(load_model(Path(target))) if Path(target).is_dir() else _preset_facts(target)
    show([_listing(target, facts, "MACs: multiply-adds of one forward pass")], facts, as_json)


@model_app.command("import-edm2")
def model_import(
    pickle: Annotated[Path, typer.Argument(metavar="PICKLE", help="network-snapshot-*.pkl of EDM2")],
    to: NewFolder,
    kind: Annotated[
        As, typer.Option("--as", help="edm: as it is; trigflow-teacher: with TrigFlow's F, which is exactly -F")
    ] = As.edm,
    as_json: AsJson = False,
) -> None:
    """Import a network of EDM2. Nothing in the pickle is run; what EDM2's files do not need is refused."""
    from scaling.weights.edm2 import import_edm2

    saved = import_edm2(pickle, to, "edm" if kind is As.edm else "trigflow")
    description = saved.description
    preset = _preset_of(saved.config) or "none of this shape"
    lines = [
        f"{saved.folder}: {description.parameters:,} parameters, preset {preset}",
        f"parameterization {description.parameterization}, encoder {description.encoder['name']}, float32",
        f"licence: {description.source.licence if description.source else 'unknown'}",
    ]
    show(lines, {"folder": str(saved.folder), **_facts(saved)}, as_json)


@model_app.command("ema")
def model_ema(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="folder of a run, with its config.yaml and snapshots")],
    sigma_rel: Annotated[float, typer.Option(help="relative width of the average, between 0 and 0.28")],
    to: NewFolder,
    updates: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps after which the average is taken; newest unless given")
    ] = None,
    max_error: Annotated[
        float, typer.Option(min=0, help="largest profile_error, as a share, that is accepted; above it nothing is made")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Make the average of a run's weights with any width, from snapshots of the averages that were kept."""
    from data_pipeline.files import refuse_occupied
    from scaling.run.spec import load_run
    from scaling.weights.ema import reconstruct
    from scaling.weights.folder import Average, describe_network, save_model

    refuse_occupied(to)
    spec = load_run(home).spec
    made = reconstruct(home, spec, sigma_rel, updates, max_error)
    average = Average(profile=sigma_rel, updates=made.updates, profile_error=made.error)
    description = describe_network(spec.network_config(), spec.data.pinned_encoder(), run=spec, average=average)
    saved = save_model(to, description, made.state)
    facts = {"folder": str(saved.folder), "sha256": saved.sha256, **made.facts()}
    terms = [asdict(term) for term in made.terms]
    show([_listing(str(to), facts, ERROR)], {**facts, "coefficients": terms}, as_json)


def _listing(title: str, facts: Mapping[str, Any], caption: str) -> Table:
    """Facts by name, for people."""
    from scaling.tables import add, table

    made = table(title, ("", ""), caption)
    made.show_header = False
    for key, value in _flat(facts):
        add(made, key, value)
    return made


def _family_names() -> list[str]:
    from scaling.config.families import CONFIGS

    return sorted(path.stem for path in (CONFIGS / "family").glob("*.yaml"))


def _preset_of(config: NetworkConfig) -> str | None:
    from scaling.config.families import load_family
    from scaling.weights.edm2 import preset_of

    return preset_of(config, map(load_family, _family_names()))


def _preset_facts(target: str) -> dict[str, Any]:
    """What is known of FAMILY/SIZE, where FAMILY is a name or a YAML file."""
    from models.family import FamilyError, count_macs, count_parameters
    from scaling.config.families import load_family

    family, slash, size = target.rpartition("/")
    if not slash:
        raise FamilyError(f"{target!r} is neither a folder of weights nor FAMILY/SIZE, such as img512/s")
    config = load_family(family).size(size)
    return {
        "preset": target,
        "parameters": count_parameters(config),
        "macs": count_macs(config),
        "network": config.describe(),
    }


def _facts(saved: SavedModel) -> dict[str, Any]:
    """What is known of a folder of weights."""
    description = saved.description
    facts = {"preset": _preset_of(saved.config), "sha256": saved.sha256, **description.model_dump(mode="json")}
    return {**facts, "run": description.run and description.run.name()}


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every fact with its dotted name, for people."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", f"{value:,}" if type(value) is int else str(value)


def _tables(family: str, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The sizes of a family and, where there is any, what was published of them."""
    from scaling.analysis.published_fids import COLUMNS
    from scaling.tables import add, right, table

    printed = any(row["published_macs"] for row in rows)
    columns = ("size", *right("channels", "parameters", "MACs", *["EDM2's MACs"] * printed))
    sizes = table(f"family {family}", columns, MACS)
    for row in rows:
        cells = (f"{row['model_channels']}", f"{row['parameters']:,}", _macs(row["macs"]), _macs(row["published_macs"]))
        add(sizes, row["size"], *cells[: 3 + printed])
    shown = [column for column in COLUMNS if any(row["published_fid"].keys() & set(column[1]) for row in rows)]
    if not shown:
        return [sizes]
    columns = ("size", *right(*(heading for heading, _ in shown)))
    fids = table(f"family {family}: published FID", columns, FIDS)
    for row in rows:
        add(fids, row["size"], *(_fids(row["published_fid"], keys) for _, keys in shown))
    return [sizes, fids]


def _macs(macs: float | None) -> str:
    if macs is None:
        return ""
    return f"{macs / 1e9:.1f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"


def _fids(published: Mapping[str, float], keys: Sequence[str]) -> str:
    return "/".join(f"{published[key]:.2f}" for key in keys if key in published)
