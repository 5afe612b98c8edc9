"""Safetensors files, read run by run: what is asked for goes from the file to its place, and nothing else is held.

The package maps a file into memory, whole tensors or rows at a time; a rank of a sharded network needs any run of
elements, and memory that is bounded by its share.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 2**24  # bytes that are converted at a time
REMEDY = "restore the folder or make it again"


class ModelError(UserError):
    """A folder of weights that cannot be used or written; the message names the file and the remedy."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its type by the code of safetensors ("F32"), its shape, and its first byte in the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. ModelError where it is missing, cut or foreign."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # checks all lengths and offsets
            metadata = file.metadata() or {}
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            content = json.loads(stream.read(length))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file: {REMEDY}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: is not a whole safetensors file ({error}): {REMEDY}") from error
    content.pop("__metadata__", None)
    return {
        name: Stored(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in content.items()
    }, metadata


class RunReader:
    """Reads runs of elements of tensors; its files stay open within `open_runs`."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, stored: Stored, first: int, into: Tensor) -> None:
        """Fill a contiguous 1-D tensor with the elements of the flattened tensor from number `first` on, converted.

        A file that ends too early is a ModelError; at most CHUNK bytes are held beside `into`.
        """
        import torch

        dtype = dtypes()[stored.dtype]
        if first < 0 or first + into.numel() > math.prod(stored.shape):
            raise ValueError(f"elements {first} to {first + into.numel()} of a tensor {list(stored.shape)}")
        begin = stored.start + first * dtype.itemsize
        if into.dtype == dtype and into.device.type == "cpu":
            self._bytes(stored.path, begin, into)
            return
        step = CHUNK // dtype.itemsize
        chunk = torch.empty(min(step, into.numel()), dtype=dtype)
        for at in range(0, into.numel(), step):
            part = into[at : at + step]
            self._bytes(stored.path, begin + at * dtype.itemsize, chunk[: len(part)])
            part.copy_(chunk[: len(part)])

    def _bytes(self, path: Path, begin: int, into: Tensor) -> None:
        import torch

        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        if not into.numel():
            return
        view = into.detach().view(torch.uint8).numpy().data
        while view:
            count = os.preadv(self._descriptors[path], [view], begin)
            if not count:
                raise ModelError(f"{path}: ends at byte {begin}: it was changed while it was read; {REMEDY}")
            view, begin = view[count:], begin + count


@contextmanager
def open_runs() -> Iterator[RunReader]:
    """A reader of runs whose files are closed after the block."""
    reader = RunReader()
    try:
        yield reader
    finally:
        reader.close()


def dtypes() -> Mapping[str, torch.dtype]:
    """The types of released weights by the codes of safetensors."""
    import torch

    return {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
