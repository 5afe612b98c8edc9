"""The encoders that a study, or an option of the command line, names: ours by name, a user's by its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from data_pipeline.text import is_safe
from models.encoders import ENCODERS, GREY, RGB, Encoder, Vae
from scaling.config.validation import ConfigError, Section, nearest, read_yaml, validate

MAX_NAME = 100
MADE_BY = "`trigscale data info SHARDS --fit-encoder FILE.yaml` writes one"


def encoder_name(name: str) -> str:
    """The name, found fit for manifests and messages and none of ours; ValueError says what is wrong with it."""
    if not 0 < len(name) <= MAX_NAME or not is_safe(name) or name.endswith((".yaml", ".yml")):
        raise ValueError(f"is a name of 1 to {MAX_NAME} characters without line breaks, such as photos-v1")
    if name in ENCODERS:
        raise ValueError(f"is the name of an encoder whose constants are known: take another, such as my-{name}")
    return name


class EncoderFile(Section):
    """A user's encoder: a map, and the mean and standard deviation of its latents over the user's images."""

    name: Annotated[str, AfterValidator(encoder_name)] = Field(description="stands in shards, runs and checkpoints")
    map: Literal["vae", "rgb", "grey"] = Field(description="a VAE, or pixels in [-1, 1]")
    shards: str | None = Field(default=None, description="encoder that the shards name; null: `name`")
    low: float = Field(default=-1.0, le=0, description="a VAE is fed with pixels in [low, 1]")
    vae_sha256: str | None = Field(default=None, pattern="[0-9a-f]{64}", description="of the VAE's weights")
    mean: tuple[float, ...] = Field(min_length=1, description="of each latent channel")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, description="of each latent channel")
    samples: int = Field(default=0, ge=0, description="how many latents were measured")

    @model_validator(mode="after")
    def _consistent(self) -> EncoderFile:
        if len(self.mean) != len(self.std):
            raise ValueError(f"std: has {len(self.std)} values and mean {len(self.mean)}: one each for every channel")
        channels = {"rgb": 3, "grey": 1}.get(self.map, len(self.mean))
        if len(self.mean) != channels:
            raise ValueError(f"mean: has {len(self.mean)} values, map {self.map} has {channels} channels")
        if (self.map == "vae") != (self.vae_sha256 is not None):
            raise ValueError("vae_sha256: a map that is a VAE has one, and no other")
        return self

    def build(self) -> Encoder:
        """The encoder that the file describes."""
        if self.map == "vae":
            base = Encoder(self.name, self.mean, self.std, Vae(low=self.low, sha256=self.vae_sha256))
        else:
            base = RGB if self.map == "rgb" else GREY
        return replace(base, name=self.name, mean=self.mean, std=self.std, shards=self.shards)


def is_file(name: str) -> bool:
    """Whether an encoder is named by its file."""
    return name.endswith((".yaml", ".yml"))


def read_encoder(path: Path) -> EncoderFile:
    """What a file says; ConfigError names the file, the key and the value."""
    return validate(EncoderFile, read_yaml(path), str(path))


def known_encoder(name: str, key: str) -> Encoder:
    """The encoder of that name, or of that YAML file; ConfigError names the `key` that it was given by."""
    if is_file(name):
        if not Path(name).exists():
            raise ConfigError(f"{key}: {name}: no such file; {MADE_BY}")
        return read_encoder(Path(name)).build()
    if name not in ENCODERS:
        raise ConfigError(f"{key}: unknown encoder {name!r}; {nearest(name, sorted(ENCODERS))}; of a file, {MADE_BY}")
    return ENCODERS[name]
