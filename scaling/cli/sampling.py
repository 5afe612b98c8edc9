"""The command `trigscale sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import AsJson, show
from scaling.cli.ranks import share


def sample(
    weights: Annotated[
        Path,
        typer.Argument(help="what holds weights: a run's folder, one of its checkpoints, or a folder of `model ema`"),
    ],
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="DIR|FILE", help="DIR: PNG files; FILE.zip, FILE.npz: with labels; FILE.png: one picture"
        ),
    ],
    seeds: Annotated[str, typer.Option(help="one image a seed: 0-49999, or 3,7,100-109")] = "0-99",
    classes: Annotated[str, typer.Option(help="all, or classes such as 207,88, which seeds take in turn")] = "all",
    steps: Annotated[
        int | None, typer.Option(min=1, help="sampling steps; the run's first choice unless given")
    ] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="strength of guidance; 1: none")] = None,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="noise levels sigma between which a teacher is guided")
    ] = None,
    autoguide: Annotated[
        Path | None, typer.Option(metavar="WEIGHTS", help="a weaker teacher that guidance leads away from")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="of a teacher: heun or ddim")] = None,
    intermediate_t: Annotated[
        float | None, typer.Option(min=0.0, max=1.5645, help="time of a student's second step, radians")
    ] = None,
    noise_seed: Annotated[int | None, typer.Option(min=0, help="key of all noise; the run's sampling.seed")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="images a pass; the run's sampling.batch")] = None,
    vae: Annotated[Path | None, typer.Option(help="folder of the VAE that decodes, of a network of latents")] = None,
    devices: Annotated[int, typer.Option(min=1, help="devices that share the seeds")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw samples of a trained network. Given again, the command makes what is missing."""
    share(devices)
    from scaling.config.validation import ConfigError
    from scaling.run.devices import any_device
    from scaling.training.sharding.world import joined
    from scaling.work.sampling import Choices, parse_classes, parse_seeds, sample_to

    if sampler not in (None, "heun", "ddim"):
        raise ConfigError(f"--sampler {sampler}: choose heun or ddim")
    choices = Choices(
        steps=steps,
        guidance=guidance,
        interval=_interval(guidance_interval),
        sampler=sampler,  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        autoguide=autoguide,
        intermediate_t=intermediate_t,
        noise_seed=noise_seed,
        batch=batch,
        classes=parse_classes(classes),
        vae=vae,
    )
    device = any_device()
    with joined(device) as world:
        facts = sample_to(weights, to, parse_seeds(seeds), choices, world)
    if world.leads:
        show([facts["file"]], facts, as_json)


def _interval(text: str | None) -> tuple[float, float] | None:
    from scaling.config.validation import ConfigError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high:
        raise ConfigError(f"--guidance-interval {text}: write two noise levels that rise, such as 0.28,5.42")
    return low, high
