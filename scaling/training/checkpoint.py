"""Checkpoints: one safetensors file a step, complete or absent, checked by a hash of its content when it is read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_pipeline.files import write_bytes_atomic

FORMAT = "trigscale-checkpoint-1"
KEEP = 2

log = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name and metadata of plain values, among them `step` and `identity`."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.metadata["step"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it; CheckpointError where there are none."""
        found = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        if not found:
            known = sorted({name.rsplit("/", 1)[0] for name in self.tensors})
            raise CheckpointError(f"{self.path}: holds no {prefix.rstrip('/')}; it holds {', '.join(known)}")
        return found


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint, flushed to the device and renamed into place; OSError names the file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata))
    header = {"format": FORMAT, "sha256": _digest(contiguous, text), "metadata": text}
    write_bytes_atomic(path, safetensors.torch.save(contiguous, metadata=header))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises CheckpointError where it is missing, truncated, altered or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a whole safetensors file ({error}): restore it or delete it") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {header.get('format')!r}, not {FORMAT!r}: not written by trigscale")
    metadata = header.get("metadata", "")
    if header.get("sha256") != _digest(tensors, metadata):
        raise CheckpointError(f"{path}: its content does not match its hash, it was damaged: restore it or delete it")
    return Checkpoint(path, tensors, json.loads(metadata))


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}.safetensors"


def newest(folder: Path, identity: str) -> Checkpoint | None:
    """The newest whole checkpoint; a damaged one is set aside under the name *.damaged with a warning.

    Raises CheckpointError if a checkpoint belongs to a run of another configuration.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            found = load(path)
        except CheckpointError as error:
            path.rename(path.with_name(path.name + ".damaged"))
            log.warning("%s; set aside, taking the one before it", error)
            continue
        require(found, identity)
        return found
    return None


def require(found: Checkpoint, identity: str) -> None:
    """CheckpointError unless the checkpoint belongs to the run of that identity."""
    owner = found.metadata["identity"]
    if owner != identity:
        raise CheckpointError(
            f"{found.path}: belongs to run {owner}, not to {identity}: another configuration; move the file away"
        )


def prune(folder: Path) -> None:
    """Delete all but the newest KEEP checkpoints and what killed writers left half-written."""
    for path in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        path.unlink()
    for path in folder.glob(".*.partial"):
        path.unlink()


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
