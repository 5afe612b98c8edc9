"""What one run is: everything that changes its result, its identity, and the files of its home folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from models.encoders import Encoder, get_encoder
from models.family import network_config
from models.network import NetworkConfig
from scaling.config.encoders import EncoderFile, is_file, read_encoder
from scaling.config.metrics import SpaceName
from scaling.config.recipes import LABELS, ConsistencyRecipe, Method, ScdVsdRecipe, TeacherRecipe, VsdRecipe, later
from scaling.config.sections import Data, Ema, Evaluation, Launch, Loading, NetworkFiles, Precision, Sampling
from scaling.config.validation import ConfigError, Section, read_yaml, validate
from scaling.run.home import RunHome


class Window(Section):
    """An order that mixes `blocks` runs of `block` samples at a time (0: whole shards, whose sizes it depends on)."""

    blocks: int
    block: int
    shards_sha256: str | None = Field(description="hash of the shards' numbers of samples, where runs are shards")


class RunData(Section):
    """The training data by content, wherever it lies."""

    content_sha256: str = Field(description="hash of the training samples and labels in order")
    held_out_sha256: str = Field(description="hash of the held-out samples and labels in order")
    encoder: str = Field(description="name of the encoder")
    definition: EncoderFile | None = later(None, "a user's encoder; null: one of ours")
    vae_sha256: str | None = later(None, "of the weights that decode; null: no VAE")
    window: Window | None = later(None, "how samples are mixed; null: a full shuffle")

    def latent_encoder(self) -> Encoder:
        """The encoder of the latents, with its constants."""
        return self.definition.build() if self.definition else get_encoder(self.encoder)

    def pinned_encoder(self) -> Encoder:
        """The same, of a VAE with the hash of the weights that decode this run's latents."""
        encoder = self.latent_encoder()
        if encoder.vae is None or self.vae_sha256 is None:
            return encoder
        return replace(encoder, map=replace(encoder.vae, sha256=self.vae_sha256))


def run_data(data: Data, content_sha256: str, held_out_sha256: str, vae_sha256: str | None = None) -> RunData:
    """What a run knows of a study's data: their content and their encoder, wherever they lie."""
    encoder = read_encoder(Path(data.encoder)) if is_file(data.encoder) else None
    return RunData(
        content_sha256=content_sha256,
        held_out_sha256=held_out_sha256,
        encoder=encoder.name if encoder else data.encoder,
        definition=encoder,
        vae_sha256=vae_sha256,
    )


class RunSpec(Section):
    """Everything that changes the result of a run, which is a pure function of it; its hash is the run's identity."""

    method: Method
    variant: str | None = later(None, "name of a run whose recipe is a variant of the method's; null: the method's own")
    size: str
    seed: int
    precision: Precision
    network: dict[str, Any]
    data: RunData
    # Each kind has a key that none before it has: plain values are read as the kind that they were written from.
    recipe: TeacherRecipe | ConsistencyRecipe | VsdRecipe | ScdVsdRecipe = Field(union_mode="left_to_right")
    ema: Ema
    sampling: Sampling
    evaluation: Evaluation
    max_nonfinite_steps: int
    weights: str | None = Field(description="SHA-256 of the weights at rest that it starts from")
    teacher: str | None = Field(description="identity of the run that a student starts from or distils")
    student: str | None = Field(description="identity of the sCD run that sCD+VSD starts from")
    guide: str | None = later(None, "SHA-256 of the weights at rest of the network that guides its teacher")
    weights_commit: str | None = later(None, "of weights on the Hugging Face Hub: the commit of their repository")
    guide_commit: str | None = later(None, "the same of the network that guides its teacher")
    networks: dict[SpaceName, str] = Field(
        default_factory=dict, description="SHA-256 of the networks whose features judge, where the study names files"
    )

    def identity(self) -> str:
        """12 hexadecimal digits of the SHA-256 over the canonical JSON of all fields; no networks: without that one."""
        content = self.model_dump(mode="json", exclude=None if self.networks else {"networks"})
        canonical = json.dumps(content, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def network_config(self) -> NetworkConfig:
        """The shape of the network."""
        return network_config(self.network, f"network of {self.name()}")

    @property
    def label(self) -> str:
        """What its curve is called: the variant, else the method."""
        return self.variant or self.method

    @property
    def title(self) -> str:
        """The same as it is written in print."""
        return self.variant or LABELS[self.method]

    def name(self) -> str:
        """The name of the run and of its folder: label-size-identity."""
        return f"{self.label}-{self.size}-{self.identity()}"


class RunFile(Section):
    """config.yaml of a run's home: the specification and where its inputs lie."""

    study: str
    identity: str
    spec: RunSpec
    shards: Path = Field(description="folder of the training shards")
    references: dict[SpaceName, Path] = Field(description="statistics of the real images, by space of features")
    networks: NetworkFiles = Field(description="where the networks lie whose features judge")
    teacher_home: Path | None = Field(description="home of the teacher's run")
    student_home: Path | None = Field(default=None, description="home of the sCD run that sCD+VSD starts from")
    weights: Path | None = Field(default=None, description="folder of the weights at rest that it starts from")
    guide: Path | None = Field(default=None, description="folder of the network that guides its teacher")
    vae: Path | None = Field(default=None, description="folder of the VAE that decodes samples; null: none is needed")
    loading: Loading = Loading()
    launch: Launch


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study and what it starts from: the teacher's run, of sCD+VSD the sCD run, or weights at rest."""

    spec: RunSpec
    parent: RunSpec | None
    weights: Path | None = None

    @property
    def name(self) -> str:
        """method-size-identity."""
        return self.spec.name()


def dump_run(run: RunFile) -> str:
    """The text of config.yaml."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_run(home: Path) -> RunFile:
    """Read a run's config.yaml. ConfigError names the file, and says so if it was edited after the run was planned."""
    path = RunHome(home).config
    try:
        run = validate(RunFile, read_yaml(path), str(path))
    except ConfigError as error:
        raise ConfigError(f"{error}\n`trigscale study run` writes it anew" if path.exists() else str(error)) from None
    if run.spec.identity() != run.identity:
        raise ConfigError(
            f"{path}: identity is {run.identity} but its spec hashes to {run.spec.identity()}: the file was edited; "
            "change the study file instead, and launch it again"
        )
    return run
