"""The commands that judge: `trigscale evaluate`, `trigscale data reference`, `trigscale ruler ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.data import data_app
from scaling.cli.output import AsJson, show
from scaling.cli.ranks import share

Ruler = Annotated[Path | None, typer.Option(help="for metrics ...-own: file that `trigscale ruler train` wrote")]
Inception = Annotated[Path | None, typer.Option(help="for fid, kid, precision, ...: file of Inception's weights")]
Dinov2 = Annotated[Path | None, typer.Option(help="for fd-dinov2: folder of DINOv2 ViT-L/14 in Hugging Face's form")]
Resize = Annotated[str, typer.Option(help="to Inception's size: clean, legacy-tf or legacy-torch")]

ruler_app = typer.Typer(help="Small networks whose features judge images of one's own.", no_args_is_help=True)


def evaluate(
    samples: Annotated[
        Path,
        typer.Argument(help="images: DIR, .zip, .tar, .npz, shards; or what holds weights, whose samples are drawn"),
    ],
    reference: Annotated[
        Path,
        typer.Option(help="real images, or statistics of them: a study's reference-*.npz, EDM2's .pkl, mu and sigma"),
    ],
    metrics: Annotated[
        str | None, typer.Option(help="such as fid,kid,fd-dinov2,precision; by default what the reference is for")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="other real images, as many as samples at least, for the floor at that N")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="of weights: the samples that are drawn; 0-4999 unless given")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="of weights: sampling steps")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="of weights: strength of guidance")] = None,
    vae: Annotated[Path | None, typer.Option(help="of weights of latents: folder of the VAE that decodes")] = None,
    ruler: Ruler = None,
    inception: Inception = None,
    dinov2: Dinov2 = None,
    resize: Resize = "clean",
    neighbours: Annotated[int, typer.Option(min=1, help="k of precision, recall, density and coverage")] = 3,
    search: Annotated[
        str | None, typer.Option(help="of a run: find the best sigma-rel, guidance, intermediate-t (with commas)")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="of a search: evaluations")] = 30,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="of a search: where it is written down")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="devices that share the images")] = 1,
    as_json: AsJson = False,
) -> None:
    """Judge images by their distance to the real ones, and say how sure that is."""
    if search is not None and devices > 1:
        raise typer.BadParameter("a search runs on one device", param_hint="--devices")
    share(devices)
    _require_used(samples, search, {"--seeds": seeds, "--steps": steps, "--guidance": guidance, "--vae": vae}, to)
    seeds = seeds or "0-4999"
    from scaling.evaluation.judge import Settings
    from scaling.run.devices import any_device
    from scaling.training.sharding.world import joined
    from scaling.work.evaluating import Asked, default_metrics, describe, evaluate_images, images_at, parse_metrics
    from scaling.work.sampling import Choices

    device = any_device()
    chosen = default_metrics(reference) if metrics is None else parse_metrics(metrics)
    files = _files(ruler, inception, dinov2)
    settings = Settings(k=neighbours, device=str(device))
    asked = Asked(reference, chosen, held_out, files, _mode(resize), settings)
    choices = Choices(steps=steps, guidance=guidance, vae=vae)
    if search is not None:
        from scaling.work.evaluating import search_run

        found = search_run(samples, asked, search, seeds, choices, budget, to, device)
        show(_searched(found), found, as_json)
        return
    with joined(device) as world:
        images = images_at(samples, seeds, choices, world.device)
        result = evaluate_images(samples, images, asked, world)
    if result is not None:
        show([describe(one) for one in result["metrics"]], result, as_json)


def _require_used(samples: Path, search: str | None, of_weights: dict[str, Any], to: Path | None) -> None:
    """A usage error for options that would say nothing: of weights where there are images, of a search without one."""
    from scaling.work.sampling import holds_weights

    if to is not None and search is None:
        raise typer.BadParameter("is the folder of a search: give --search too", param_hint="--to")
    given = next((name for name, value in of_weights.items() if value is not None), None)
    if given is not None and search is None and samples.exists() and not holds_weights(samples):
        raise typer.BadParameter(f"{samples} holds images, which are judged as they are", param_hint=given)


def _searched(found: dict[str, Any]) -> list[Any]:
    from scaling.tables import table

    names = list(found["evaluations"][0])
    made = table("evaluations, the best first", names)
    for one in found["evaluations"]:
        made.add_row(*(f"{one[name]:.4g}" if name in one else "as the run" for name in names))
    best = ", ".join(f"{name} {value:g}" for name, value in found["best"].items()) or "as the run says"
    ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in
                       found["cannot_be_told_from_the_best"].items() if low < high)  # fmt: skip
    ties = f"cannot be told from it (95 %, common seeds): {ranges}" if ranges else "all others are told from it"
    spent = ["the budget ended the search: give the command again with more"] if found["budget_spent"] else []
    return [made, f"best: {best}: {found['value']:.4g} ± {found['error']:.2g}; {ties}", *spent]


@data_app.command("reference")
def data_reference(
    images: Annotated[Path, typer.Argument(help="images: DIR, .zip, .tar, .npz, or shards")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE.npz", help="file of statistics, for --reference")],
    features: Annotated[str, typer.Option(help="inception, dinov2, fashion or own")] = "inception",
    ruler: Ruler = None,
    inception: Inception = None,
    dinov2: Dinov2 = None,
    resize: Resize = "clean",
    as_json: AsJson = False,
) -> None:
    """Mean and covariance of the features of real images: a reference for `evaluate`."""
    from data_pipeline.files import make_parents, write_bytes_atomic
    from scaling.config.metrics import SPACES
    from scaling.config.validation import ConfigError, choices
    from scaling.run.devices import any_device
    from scaling.work.evaluating import make_statistics

    if features not in SPACES:
        raise ConfigError(f"--features {features}: {choices(features, [*SPACES])}")
    if to.suffix != ".npz":
        raise ConfigError(f"--to {to}: name it FILE.npz")
    make_parents(to)
    device = any_device()
    real = make_statistics(images, features, _files(ruler, inception, dinov2), _mode(resize), device)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    write_bytes_atomic(to, real.to_bytes(to.stem))
    facts = {"file": str(to), "images": real.count, "features": real.about.size, "network": real.about.network}
    facts |= {"network_sha256": real.about.sha256, "resize": real.about.resize, "sha256": real.sha256()}
    show([f"{to}: {real.count:,} images, {real.about.size} features of {real.about.network}"], facts, as_json)


@ruler_app.command("train")
def ruler_train(
    shards: Annotated[Path, typer.Argument(help="folder of training shards, made by `trigscale data pack`")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE.safetensors", help="file of the network")],
    held_out: Annotated[Path, typer.Option(help="folder of held-out shards, to say what it sees")],
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training images")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="of weights and order")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a small network on your own images; its features judge samples of them (evaluation.metric fd-own)."""
    from data_pipeline.files import sha256_file
    from scaling.work.rulers import train_ruler

    ruler = train_ruler(shards, held_out, to, epochs, seed)
    facts = {"file": str(to), "sha256": sha256_file(to), **ruler.model_dump(mode="json")}
    show(_told(to, ruler), facts, as_json)


@ruler_app.command("show")
def ruler_show(file: Annotated[Path, typer.Argument(help="file of a ruler")], as_json: AsJson = False) -> None:
    """What a ruler was trained on, and what it sees."""
    from data_pipeline.files import sha256_file
    from scaling.evaluation.spaces.small import read_ruler

    ruler = read_ruler(file)
    show(_told(file, ruler), {"file": str(file), "sha256": sha256_file(file), **ruler.model_dump(mode="json")}, as_json)


def _told(path: Path, ruler: Any) -> list[Any]:
    from scaling.tables import table

    size = "x".join(map(str, ruler.takes))
    what = "quarter turns" if ruler.rotations else f"{ruler.classes} classes"
    lines: list[Any] = [f"{path}: images of {size}, trained on {ruler.dataset} to tell {what} apart"]
    if ruler.accuracy is not None:
        lines.append(f"right on {100 * ruler.accuracy:.1f} % of held-out images")
    if ruler.sight:
        made = table(
            f"held-out images, N = {ruler.samples:,}, floor {ruler.floor:.3g}", ("altered", "FD-own", "floors")
        )
        for one in ruler.sight:
            made.add_row(one.altered, f"{one.distance:.3g}", f"{one.floors:.1f}")
        lines.append(made)
    return lines


def _files(ruler: Path | None, inception: Path | None, dinov2: Path | None) -> Any:
    from scaling.config.sections import NetworkFiles

    return NetworkFiles(ruler=ruler, inception=inception, dinov2=dinov2)


def _mode(resize: str) -> Any:
    from scaling.config.validation import ConfigError, choices

    modes = ["clean", "legacy-tf", "legacy-torch"]
    if resize not in modes:
        raise ConfigError(f"--resize {resize}: {choices(resize, modes)}")
    return resize
