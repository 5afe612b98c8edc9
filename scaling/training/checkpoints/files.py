"""Checkpoints on disk: a folder a step, complete or absent, whose manifest vouches for every byte.

checkpoints/newest                                 the newest folder's name: a hint for people and other programs
checkpoints/step-00000100/checkpoint.json          the manifest: metadata, tensors, their runs, files and hashes
checkpoints/step-00000100/rank-00000.safetensors   what rank 0 wrote: runs of elements of flattened tensors
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.files import PARTIAL, fsync_folder, set_aside, sha256_file, write_text_atomic
from data_pipeline.text import shown

FORMAT = "trigscale-checkpoint-2"
MANIFEST, POINTER = "checkpoint.json", "newest"
STEP = re.compile(r"step-(\d{8,})")
DATA = re.compile(r"rank-\d{5,}\.safetensors")
REMEDY = "restore it or delete it"
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


class Span(NamedTuple):
    """Elements [offset, offset + length) of a flattened tensor, under the tensor's name in a file."""

    offset: int
    length: int
    file: str


class File(NamedTuple):
    """What a file must be: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """A tensor: its shape, its type by the code of safetensors ("F32"), and the runs, in order, that make it up."""

    shape: tuple[int, ...]
    dtype: str
    runs: tuple[Span, ...]

    @classmethod
    def of(cls, name: str, shape: Sequence[int], dtype: str, runs: Iterable[Span]) -> Stored:
        """ValueError with the tensor's name unless type and shape can be, and the runs cover it, each element once."""
        if dtype not in DTYPES or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"{name}: no tensor is {shown(dtype)} {shown(shape)}")
        stored, position, size = cls(tuple(shape), dtype, tuple(sorted(runs))), 0, math.prod(shape)
        for run in stored.runs:
            if run.offset != position or run.length < 0:
                raise ValueError(f"{name}: element {position} of {size} is missing or stored twice")
            position += run.length
        if position != size:
            raise ValueError(f"{name}: has {position} of {size} elements")
        return stored


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds: metadata of plain values, tensors by name, and the files that hold them."""

    metadata: dict[str, Any]
    tensors: Mapping[str, Stored]
    files: Mapping[str, File]

    def dumps(self) -> str:
        """As JSON, with a hash of itself."""
        tensors = {name: {"shape": t.shape, "dtype": t.dtype, "runs": t.runs} for name, t in self.tensors.items()}
        files = {name: file._asdict() for name, file in self.files.items()}
        content = {"metadata": self.metadata, "tensors": tensors, "files": files}
        return json.dumps({"format": FORMAT, "sha256": _digest(content), "content": content})


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in folder `path`, found to be as written; its files are not looked at.

    Raises CheckpointError where it is missing, damaged, altered or foreign.
    """
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not path.exists():
            raise CheckpointError(f"{path}: no such checkpoint") from None
        raise CheckpointError(f"{path}: has no {MANIFEST}: it is damaged, or not written by trigscale") from None
    except NotADirectoryError:
        raise CheckpointError(
            f"{path}: is a file, a checkpoint is a folder: not written by trigscale, or by one before 0.2"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST}: is not whole JSON ({error}): {REMEDY}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{path / MANIFEST}: is not of format {FORMAT!r}: not written by this trigscale")
    content = found.get("content")
    if found.get("sha256") != _digest(content):
        raise CheckpointError(f"{path / MANIFEST}: does not match its hash, it was altered: {REMEDY}")
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST}: is no sound manifest ({error!r}): {REMEDY}") from error


def _parse(content: Any) -> Manifest:
    files = {name: File(**file) for name, file in content["files"].items()}
    for name in files:
        if not DATA.fullmatch(name):
            raise ValueError(f"file {name!r} is not named as trigscale names files")
    tensors = {
        name: Stored.of(name, t["shape"], t["dtype"], [Span(*run) for run in t["runs"]])
        for name, t in content["tensors"].items()
    }
    absent = {run.file for t in tensors.values() for run in t.runs} - files.keys()
    if absent:
        raise ValueError(f"files that are not listed: {', '.join(sorted(absent))}")
    _check_sizes(tensors, files)
    return Manifest(dict(content["metadata"]), tensors, files)


def _check_sizes(tensors: Mapping[str, Stored], files: Mapping[str, File]) -> None:
    """ValueError where runs take more bytes than their file is said to have, before anybody asks for such memory."""
    taken = dict.fromkeys(files, 0)
    for tensor in tensors.values():
        for run in tensor.runs:
            taken[run.file] += run.length * DTYPES[tensor.dtype].itemsize
    for name, file in files.items():
        if taken[name] > file.size:
            raise ValueError(f"{name}: tensors of {taken[name]:,} bytes in a file of {file.size:,}")


def verify_file(path: Path, expected: File) -> None:
    """CheckpointError unless the file has the size and the bytes that its manifest says."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise CheckpointError(f"{path}: has {size} of {expected.size} bytes: {REMEDY}")
        found = sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error
    if found != expected.sha256:
        raise CheckpointError(f"{path}: its content does not match its hash, it was damaged: {REMEDY}")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def path_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints under their final names, ascending; none where the folder does not exist."""
    if not folder.is_dir():
        return []
    found = (STEP.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


@contextmanager
def shown_as(path: Path) -> Iterator[None]:
    """Give an OSError the name under which the file was to appear, instead of a hidden one or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def new_partial(final: Path) -> Path:
    """An empty hidden folder beside `final`, of a name that no other writer uses; those of dead writers go."""
    folder = final.parent
    with shown_as(final):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        partial = _hidden(final)
        partial.mkdir()
        return partial


def settle(newest: Path) -> None:
    """Do what a killed writer did not come to: delete what it left half-written or half-deleted, and set the pointer.

    newest: the newest whole checkpoint, of a run that no process trains now.
    """
    _clear(newest.parent)
    pointer, text = newest.parent / POINTER, f"{newest.name}\n"
    if pointer.is_dir():
        set_aside(pointer)
    if not pointer.exists() or pointer.read_bytes() != text.encode():
        write_text_atomic(pointer, text)


def _clear(folder: Path) -> None:
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another rank of the dead run may be writing there yet
        else:
            path.unlink()


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest beside the flushed files, give the folder its name, and point to it; OSError names the file.

    A checkpoint of that step that was there is replaced.
    """
    with shown_as(final / MANIFEST):
        write_text_atomic(partial / MANIFEST, manifest.dumps())  # flushes the folder's entries too
    with shown_as(final):
        if final.exists():
            _remove(final)
        partial.rename(final)
        fsync_folder(final.parent)
    write_text_atomic(final.parent / POINTER, f"{final.name}\n")


def prune(folder: Path, keep: int, keep_steps: int) -> None:
    """Delete all checkpoints but the newest `keep` and, unless it is 0, those of multiples of `keep_steps`."""
    for step in steps_in(folder)[:-keep]:
        if not keep_steps or step % keep_steps:
            _remove(path_of(folder, step))


def _remove(path: Path) -> None:
    hidden = _hidden(path)  # so that none that is half deleted has a final name
    path.rename(hidden)
    shutil.rmtree(hidden)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{PARTIAL}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> File:
    """Write 1-D tensors on the CPU, in their order, as a new safetensors file, flushed; its size and hash.

    Larger elements must come before smaller ones, so that all are aligned.
    """
    header, position = {}, 0
    for name, tensor in tensors.items():
        span = [position, position + tensor.nbytes]
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        position = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        data = (t.view(torch.uint8).numpy().data for t in tensors.values())
        for part in (struct.pack("<Q", len(text)), text, *data):
            digest.update(part)
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
    return File(8 + len(text) + position, digest.hexdigest())
