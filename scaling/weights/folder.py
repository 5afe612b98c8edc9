"""Weights at rest and releases: how their folders are written, and what config.json says of the run behind them.

`models.release` says what lies in such a folder and reads it; here its whole description is checked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from data_pipeline.files import atomic_folder, sha256_file, write_json_atomic, write_text_atomic
from models.encoders import Encoder
from models.family import count_macs, count_parameters, network_config
from models.network import NetworkConfig
from models.release import (
    CONFIG,
    CORE,
    FORMAT,
    INDEX,
    METADATA,
    PRECISIONS,
    SUMS,
    WEIGHTS,
    ModelError,
    Release,
    canonical,
    described,
    read_release,
    sums_text,
)
from models.shape import BUFFERS, state_shapes
from models.tensor_files import dtypes
from scaling.config.recipes import StudentRecipe, TeacherRecipe
from scaling.config.sections import Ema, Evaluation, Precision, Sampling
from scaling.config.validation import Section, validate
from scaling.run.spec import RunData, RunSpec
from scaling.sampling.draw import draw_of
from scaling.sampling.evaluations import sampler_steps

if TYPE_CHECKING:  # a description is read without torch
    import torch
    from torch import Tensor

    from models.trigflow import TrigFlowNet

SPLIT = 5 * 10**9  # bytes of tensors from which on they are spread over several files
Parameterization = Literal["edm", "trigflow"]


class Source(Section):
    """Where imported weights come from."""

    file: str = Field(description="name of the file")
    sha256: str = Field(description="SHA-256 of the file, hexadecimal")
    ema_sigma_rel: float | None = Field(description="relative width of the averaged weights, where the name tells it")
    images: int | None = Field(description="training images, where the name tells them")
    licence: str = Field(description="what the weights may be used for")


class Average(Section):
    """Which weights of a run these are."""

    profile: float | None = Field(description="EMA: sigma_rel (below 1) or half-life in images; null: raw weights")
    updates: int = Field(description="optimizer steps after which")
    profile_error: float | None = Field(
        default=None, description="of an average made after training: relative L2 distance of its profile"
    )


class Training(Section):
    """What making the weights took."""

    study: str | None = Field(description="name of the study")
    images: int = Field(description="training images seen")
    train_flops: float = Field(description="FLOPs of the optimizer steps, 2 a multiply-add")
    device_hours: float | None = Field(description="hours of training times devices; null: not recorded")
    devices: int | None = Field(description="devices; null: not known")
    device: str | None = Field(description="what they are")
    teacher_flops: float | None = Field(default=None, description="of a student: FLOPs of its teacher's training")
    teacher_device_hours: float | None = Field(default=None, description="of a student: those of its teacher")


class Parent(Section):
    """Weights at rest that the run, or its teacher, started from."""

    sha256: str = Field(description="what they are known by")
    licence: str | None = Field(description="what they may be used for; null: nothing was said")


class DataFacts(Section):
    """What the weights were trained on."""

    dataset: str = Field(description="name that its manifest gives")
    samples: int = Field(description="training samples")
    content_sha256: str = Field(description="hash of samples and labels in order")
    class_names: tuple[str, ...] | None = Field(default=None, description="by label")


class Grid(Section):
    """The picture of samples: for each number of steps the images of the first seeds, classes in turn."""

    steps: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(min_length=1, max_length=10)
    images: int = Field(ge=1, le=1000, description="for each number of steps")
    columns: int = Field(ge=1, le=1000)
    noise_seed: int = Field(ge=0, description="key of all noise")


class Description(Section):
    """config.json but for its format and the hashes of the weights."""

    kind: Literal["teacher", "student"] = Field(description="a diffusion model, or a consistency model")
    parameterization: Parameterization = Field(description="edm: the network gives EDM2's F; trigflow: TrigFlow's")
    network: dict[str, Any] = Field(description="keys of the network's shape")
    encoder: dict[str, Any] = Field(description="encoder of what the network sees, by name with its constants")
    guidance: tuple[float, float] | None = Field(description="guidance strengths that a student saw; null: none")
    sigma_data: float = Field(description="standard deviation of what the network sees times this")
    t_max: float = Field(description="time from which samples are drawn, radians")
    sampling: dict[str, Any] | None = Field(default=None, description="how samples are drawn unless said otherwise")
    parameters: int = Field(gt=0, description="trainable parameters, the weighting head's included")
    macs: int | None = Field(default=None, description="multiply-adds of one forward pass of one sample")
    dtype: Precision = Field(default="fp32", description="type of the parameters; buffers are float32")
    average: Average | None = Field(default=None, description="which weights of the run these are")
    licence: str | None = Field(default=None, description="what the weights may be used for; null: nothing was said")
    parent: Parent | None = Field(default=None, description="weights at rest that their making started from")
    source: Source | None = Field(default=None, description="where imported weights come from")
    training: Training | None = Field(default=None, description="what making them took")
    data: DataFacts | None = Field(default=None, description="what they were trained on")
    unverified: tuple[str, ...] = Field(default=(), description="what of their making could not be verified")
    grid: Grid | None = Field(default=None, description="how the picture of samples was drawn")
    run: RunSpec | None = Field(default=None, description="the whole configuration of the run, its recipe included")


@dataclass(frozen=True)
class SavedModel:
    """A folder of weights whose description is read and fits them; `state` and `network` read the weights.

    commit: of the Hub's repository that they were fetched from.
    """

    release: Release
    description: Description
    commit: str | None = None

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.release.folder

    @property
    def config(self) -> NetworkConfig:
        """The shape of the network."""
        return self.release.config

    @property
    def sha256(self) -> str:
        """What the weights are known by."""
        return self.release.sha256

    def verify(self) -> None:
        """Raise ModelError unless every byte of the weights is as it was written."""
        self.release.verify()

    def state(self) -> dict[str, Tensor]:
        """The weights by the names of TrigFlowNet, float32, verified."""
        return self.release.state()

    def network(self, device: torch.device | str = "cpu") -> TrigFlowNet:
        """The network with its weights, float32, for inference."""
        return self.release.network(device)


def describe_network(
    config: NetworkConfig,
    encoder: Encoder,
    *,
    parameterization: Parameterization = "trigflow",
    run: RunSpec | None = None,
    **facts: Any,
) -> Description:
    """The description of a network with what its run says of it; `facts`: further fields."""
    recipe = run.recipe if run else None
    student = isinstance(recipe, StudentRecipe)
    core = described(
        kind="student" if student else "teacher",
        parameterization=parameterization,
        network=config.describe(),
        encoder=encoder.describe(),
        guidance=recipe.guidance if student else None,
    )
    return Description(
        **core,
        sampling=_sampling(run) if run else None,
        parameters=count_parameters(config),
        macs=count_macs(config),
        run=run,
        **facts,
    )


def _sampling(run: RunSpec) -> dict[str, Any]:
    """How a run's samples are drawn, for readers that know nothing of studies."""
    sampling, steps = run.sampling, [*sampler_steps(run)]
    if not isinstance(run.recipe, StudentRecipe):
        return {"sampler": "heun", "steps": steps, "guidance": sampling.teacher_guidance}
    return {
        "sampler": draw_of(run).sampler,
        "steps": steps,
        "intermediate_t": sampling.intermediate_t,
        "guidance": {str(steps): strength for steps, strength in sampling.student_guidance.items()} or None,
    }


def sampled_as(saved: SavedModel) -> RunSpec:
    """The run whose sampling section says how samples are drawn; imported weights are sampled as a teacher of no steps.

    ModelError for EDM2's own F, which samplers do not take.
    """
    description = saved.description
    if description.run is not None:
        return description.run
    if description.parameterization != "trigflow":
        raise ModelError(
            f"{saved.folder}: holds EDM2's F, and samplers take TrigFlow's: import it again with --as trigflow-teacher"
        )
    return RunSpec(
        method="teacher",
        size="imported",
        seed=0,
        precision="fp32",
        network=saved.config.describe(),
        data=RunData(content_sha256="", held_out_sha256="", encoder=saved.release.encoder.name),
        recipe=TeacherRecipe(steps=0, lr=1.0),  # of no steps: its numbers mean nothing
        ema=Ema(),
        sampling=Sampling(),
        evaluation=Evaluation(),
        max_nonfinite_steps=1,
        weights=saved.sha256,
        teacher=None,
        student=None,
    )


def save_model(folder: Path, description: Description, state: Mapping[str, Tensor]) -> SavedModel:
    """Write a network to a new folder. Raises OSError where that is occupied or cannot be written."""
    with atomic_folder(folder) as partial:
        write_weights(partial, description, state, shown=folder)
        write_sums(partial)
    return load_model(folder)


def write_weights(
    partial: Path, description: Description, state: Mapping[str, Tensor], *, shown: Path, split: int = SPLIT
) -> None:
    """Write config.json and the weights, in files of at most `split` bytes of tensors, into a folder in the making.

    The same state gives the same bytes. shown: the folder's name in messages.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    content = json.loads(description.model_dump_json())
    core = canonical({key: content[key] for key in CORE})
    files: dict[str, str] = {}
    groups = _groups(description, state, split)
    names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    names = names if len(groups) > 1 else [WEIGHTS]
    for name, group in zip(names, groups, strict=True):
        tensors = {key: _converted(key, state[key], description.dtype) for key in group}
        try:  # one key: of several, safetensors 0.8 changes the order from call to call, and with it the bytes
            save_file(tensors, partial / name, {METADATA: core})
        except SafetensorError as error:
            raise ModelError(f"{shown / name}: the weights cannot be written: {error}") from error
        files[name] = sha256_file(partial / name)
    if len(groups) > 1:
        weight_map = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        total = sum(_bytes(key, state[key], description.dtype) for key in weight_map)
        write_json_atomic(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json_atomic(partial / CONFIG, {"format": FORMAT, **content, "files": files})
    for name in files:
        shutil.copymode(partial / CONFIG, partial / name)  # safetensors lets the owner alone read


def write_sums(partial: Path) -> None:
    """Write the hashes of all files in a folder that is being made, and in folders inside it, as its last file."""
    paths = [path for path in partial.rglob("*") if path.is_file() and path != partial / SUMS]
    hashes = {path.relative_to(partial).as_posix(): sha256_file(path) for path in paths}
    write_text_atomic(partial / SUMS, sums_text(hashes))


def _groups(description: Description, state: Mapping[str, Tensor], split: int) -> list[list[str]]:
    """The names in the network's order, each file as full as it may be; one tensor may be larger than a file."""
    groups: list[list[str]] = [[]]
    held = 0
    for name in state_shapes(network_config(description.network, "network")):
        size = _bytes(name, state[name], description.dtype)
        if groups[-1] and held + size > split:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _type(name: str, dtype: Precision) -> Any:
    return dtypes()["F32" if name.endswith(BUFFERS) else PRECISIONS[dtype]]


def _bytes(name: str, tensor: Tensor, dtype: Precision) -> int:
    return tensor.numel() * _type(name, dtype).itemsize


def _converted(name: str, tensor: Tensor, dtype: Precision) -> Tensor:
    converted = tensor.detach().to("cpu", _type(name, dtype)).contiguous()
    if not bool(converted.isfinite().all()):
        held = "holds NaN or infinity" if not bool(tensor.isfinite().all()) else f"holds values too large for {dtype}"
        raise ModelError(f"{name}: {held}: nothing was written; release another average, or --dtype bf16 or fp32")
    return converted


def load_model(folder: Path) -> SavedModel:
    """Read the description of a folder of weights and the names and shapes in it; the weights themselves wait.

    Raises ModelError, or ConfigError for a bad key of config.json: foreign, damaged or altered files.
    """
    found = read_release(folder)
    content = {key: value for key, value in found.content.items() if key not in ("format", "files")}
    return SavedModel(found, validate(Description, content, str(folder / CONFIG)))
