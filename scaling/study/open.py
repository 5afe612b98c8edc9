"""A study ready to be planned or run: its file read, with its family of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.family import Family
from scaling.config.encoders import known_encoder
from scaling.config.families import load_family
from scaling.config.study import StudyConfig, load_study
from scaling.config.validation import ConfigError, nearest


@dataclass(frozen=True)
class Study:
    """A study ready to be planned or run: its configuration and its family of sizes."""

    config: StudyConfig
    family: Family

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.config.launch.folder / self.config.name


def open_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file and its family. Raises ConfigError or FamilyError."""
    config = load_study(path, overrides)
    encoder = known_encoder(config.data.encoder, "data.encoder")
    if encoder.vae is None and config.data.vae is not None:
        raise ConfigError(f"data.vae: {config.data.vae}, but encoder {encoder.name!r} is no VAE: remove the key")
    family = load_family(config.family)
    for size in config.sizes:
        family.size(size)
    for size in config.by_size:  # of a size that is left out they wait; of one that there is not, they are a mistake
        if size not in family.sizes:
            raise ConfigError(
                f"by_size.{size}: family {family.name!r} has no such size; {nearest(size, [*family.sizes])}; in "
                "a study copied from another family drop these lines, or all of them with by_size={}"
            )
    return Study(config, family)
