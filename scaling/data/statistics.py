"""Mean and standard deviation of the latents in shards, channel by channel, and the encoder that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from data_pipeline.files import make_parents, write_text_atomic
from data_pipeline.manifest import DataError, Manifest
from data_pipeline.reader import LatentReader
from models.encoders import ENCODERS, GREY, RGB
from scaling.config.encoders import EncoderFile, read_encoder
from scaling.config.validation import ConfigError, validate

BATCH = 256
DIGITS = 6


@dataclass(frozen=True)
class ChannelStatistics:
    """Of latents as they are drawn: mean and standard deviation [c] over samples and places."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: int


def channel_statistics(shards: Path, samples: int | None = None) -> ChannelStatistics:
    """Statistics of the latents of the first `samples` samples, in float64; None: of all.

    Of moments: the latent mean + std eps has the variance of the means, plus the mean of std^2. Raises DataError.
    """
    reader = LatentReader(shards)
    manifest, count = reader.manifest, min(samples or len(reader), len(reader))
    total, squares, spread = np.zeros((3, manifest.latent_shape[0]))
    for start in range(0, count, BATCH):
        arrays, _ = reader.read(np.arange(start, min(start + BATCH, count)))
        values = arrays.astype(np.float64)
        mean, std = np.split(values, 2, axis=1) if manifest.moments else (values, np.zeros_like(values))
        total += mean.sum((0, 2, 3))
        squares += np.square(mean).sum((0, 2, 3))
        spread += np.square(std).sum((0, 2, 3))
    size = count * manifest.latent_shape[1] * manifest.latent_shape[2]
    mean = total / size
    std = np.sqrt(np.maximum((squares + spread) / size - mean**2, 0))
    return ChannelStatistics(tuple(mean.tolist()), tuple(std.tolist()), count)


def fit_encoder(shards: Path, to: Path, name: str | None) -> EncoderFile:
    """Measure an encoder's constants on shards and write it into a YAML file; `name`: that of the shards unless given.

    Raises ConfigError for a name or a file that cannot be, DataError for the shards.
    """
    if to.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--fit-encoder {to}: name it FILE.yaml")
    manifest = Manifest.load(shards)
    found = channel_statistics(shards)
    for channel, std in enumerate(found.std):
        if not std > 0:
            raise DataError(f"{shards}: channel {channel} has the same value everywhere, {found.mean[channel]:.6g}")
    chosen = name or manifest.encoder
    if name is None and chosen in ENCODERS:
        raise ConfigError(f"{shards}: encoder {chosen!r} has constants already: give one of your own a --name")
    content = {
        "name": chosen,
        **_map(manifest, shards),
        **({"shards": manifest.encoder} if manifest.encoder != chosen else {}),
        **{key: [float(f"{value:.{DIGITS}g}") for value in getattr(found, key)] for key in ("mean", "std")},
        "samples": found.samples,
    }
    fitted = validate(EncoderFile, content, f"--fit-encoder {to}")
    head = f"# Channel statistics of {manifest.dataset}, content {manifest.content_sha256}.\n"
    make_parents(to)
    write_text_atomic(to, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return read_encoder(to) if to.exists() else fitted


def _map(manifest: Manifest, shards: Path) -> dict[str, str | float]:
    """How latents of this kind come from images."""
    made = manifest.made or {}
    if "vae_sha256" in made:
        return {"map": "vae", "low": made["low"], "vae_sha256": made["vae_sha256"]}
    for key, encoder in (("rgb", RGB), ("grey", GREY)):
        if manifest.encoder == encoder.name:
            return {"map": key}
    raise DataError(f"{shards}: does not say which VAE made its latents: encode them with `trigscale data encode`")
