"""Weights at rest: a folder with model.safetensors (float32) and config.json, complete or absent, checked when read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from safetensors import SafetensorError, safe_open

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_folder, sha256_file, write_json_atomic
from models.family import count_parameters, network_config
from models.network import NetworkConfig
from models.shape import state_shapes
from scaling.config.validation import Section, validate
from scaling.run.spec import RunSpec

if TYPE_CHECKING:  # a description is read without torch
    from torch import Tensor

    from models.trigflow import TrigFlowNet

FORMAT = "trigscale-model-1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
METADATA = "trigscale"
Parameterization = Literal["edm", "trigflow"]


class ModelError(UserError):
    """A folder of weights that cannot be used or written; the message names the file and the remedy."""


class Source(Section):
    """Where imported weights come from."""

    file: str = Field(description="name of the file")
    sha256: str = Field(description="SHA-256 of the file, hexadecimal")
    ema_sigma_rel: float | None = Field(description="relative width of the averaged weights, where the name tells it")
    images: int | None = Field(description="training images, where the name tells them")
    licence: str = Field(description="what the weights may be used for")


class Description(Section):
    """Everything in config.json but its format and the hash of the weights."""

    parameterization: Parameterization = Field(description="edm: the network gives EDM2's F; trigflow: TrigFlow's")
    network: dict[str, Any] = Field(description="keys of the network's shape")
    encoder: str | None = Field(description="encoder of the latents; null: the network sees pixels")
    parameters: int = Field(gt=0, description="trainable parameters, the weighting head's included")
    source: Source | None = Field(description="where imported weights come from")
    run: RunSpec | None = Field(default=None, description="the run whose average this is")

    def content(self) -> dict[str, Any]:
        """Plain values; `run` where there is one."""
        return self.model_dump(mode="json", exclude=None if self.run else {"run"})

    def canonical(self) -> str:
        """One text for one description; the weights carry it too, so that neither file can be altered alone."""
        return json.dumps(self.content(), sort_keys=True)


@dataclass(frozen=True)
class SavedModel:
    """A folder of weights whose description is read and fits them; `state` and `network` read the weights."""

    folder: Path
    config: NetworkConfig
    description: Description
    sha256: str

    def verify(self) -> None:
        """Raise ModelError unless every byte of the weights is as it was written."""
        path = self.folder / WEIGHTS
        if sha256_file(path) != self.sha256:
            raise ModelError(f"{path}: its content does not match the hash in {CONFIG}: damaged; make or copy it again")

    def state(self) -> dict[str, Tensor]:
        """The weights by the names of TrigFlowNet, float32, verified."""
        from safetensors.torch import load_file

        self.verify()
        return load_file(self.folder / WEIGHTS)

    def network(self) -> TrigFlowNet:
        """The network with its weights on the CPU, for inference."""
        import torch

        from models.trigflow import TrigFlowNet

        with torch.device("meta"):
            net = TrigFlowNet(self.config)
        net.load_state_dict(self.state(), assign=True)
        return net.eval().requires_grad_(False)


def save_model(
    folder: Path,
    config: NetworkConfig,
    state: Mapping[str, Tensor],
    *,
    parameterization: Parameterization,
    encoder: str | None,
    source: Source | None,
    run: RunSpec | None = None,
) -> SavedModel:
    """Write a network to a new folder. Raises OSError where that is occupied or cannot be written."""
    import torch
    from safetensors.torch import save_file

    description = Description(
        parameterization=parameterization,
        network=json.loads(json.dumps(config.describe())),
        encoder=encoder,
        parameters=count_parameters(config),
        source=source,
        run=run,
    )
    weights = {name: state[name].detach().to("cpu", torch.float32).contiguous() for name in state_shapes(config)}
    with atomic_folder(folder) as partial:
        try:
            save_file(weights, partial / WEIGHTS, {METADATA: description.canonical()})
        except SafetensorError as error:
            raise ModelError(f"{folder}: the weights cannot be written: {error}") from error
        content = {"format": FORMAT, **description.content(), "sha256": sha256_file(partial / WEIGHTS)}
        write_json_atomic(partial / CONFIG, content)
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors lets the owner alone read
    return load_model(folder)


def load_model(folder: Path) -> SavedModel:
    """Read the description of a folder of weights and the names and shapes in it; the weights themselves wait.

    Raises ModelError, or ConfigError or FamilyError for a bad key of config.json: foreign, damaged or altered files.
    """
    path = folder / CONFIG
    content = _read_json(path)
    if content.get("format") != FORMAT:
        raise ModelError(f"{path}: has format {content.get('format')!r}, not {FORMAT!r}: not written by trigscale")
    description = validate(Description, {k: v for k, v in content.items() if k not in ("format", "sha256")}, str(path))
    config = network_config(description.network, f"{path}: network")
    _check_weights(folder / WEIGHTS, config, description)
    sha256 = content.get("sha256")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ModelError(f"{path}: sha256 is {sha256!r}, not 64 hexadecimal digits: the file was altered; import again")
    return SavedModel(folder, config, description, sha256)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file: name a folder made by `trigscale model import-edm2`") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}): restore the folder or make it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}, not an object: restore the folder or make it again")
    return content


def _check_weights(path: Path, config: NetworkConfig, description: Description) -> None:
    """Raise ModelError unless the file holds the network's tensors and this description."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            carried = (file.metadata() or {}).get(METADATA)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file: restore the folder or make it again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: is not a whole safetensors file ({error}): restore it or make it again") from error
    if carried != description.canonical():
        raise ModelError(
            f"{path}: belongs to another {CONFIG} than the one beside it: one was altered; make the folder again"
        )
    expected = state_shapes(config)
    if wrong := [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]:
        raise ModelError(
            f"{path}: {wrong[0]} has shape {shapes.get(wrong[0])} where {expected.get(wrong[0])} belongs: "
            "not the network of its description; make the folder again"
        )
