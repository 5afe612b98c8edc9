"""Tensors in EDM2's snapshots: from the records of `models.edm2_pickle` to values, checked before they are touched."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.edm2_pickle import PARAMETER, STORAGE, STORED, TENSOR, Call, EDM2Error, Global, Stream, run

DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
}
ALLOWED = frozenset(DTYPES)
VIEWS = ((), (None,))  # a storage of its own, as old and as newer files say it
STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_PROTOCOL = 1001
FOREIGN = "a storage is not in the format of EDM2's files"
LARGEST = 2**40


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not yet read: the bytes of its storage, and its place, sizes and strides there, in elements."""

    raw: bytes
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> Tensor:
        """A copy in float32. Raises EDM2Error for a storage that is damaged, foreign or smaller than the tensor."""
        storage = _read_storage(self.raw)
        reach = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) > len(storage) or reach >= len(storage):
            raise EDM2Error(f"a tensor of shape {list(self.shape)} reaches beyond its {len(storage)} stored values")
        view = torch.as_strided(storage, self.shape, self.strides, self.offset)
        return view.to(torch.float32, copy=True).contiguous()


def stored_tensor(value: Any) -> StoredTensor:
    """The tensor or parameter that a record stands for. Raises EDM2Error if it stands for none."""
    if isinstance(value, Call) and value.name == PARAMETER and value.args:
        value = value.args[0]
    if not (isinstance(value, Call) and value.name == TENSOR and len(value.args) >= 4):
        raise EDM2Error("is no tensor as EDM2 stores them")
    storage, offset, shape, strides = value.args[:4]
    numbers = (offset, *_counts(shape), *_counts(strides))
    if any(type(n) is not int or not 0 <= n < LARGEST for n in numbers) or len(shape) != len(strides) or 0 in shape:
        raise EDM2Error("is a tensor whose shape makes no sense")
    if not (isinstance(storage, Call) and storage.name == STORAGE and len(storage.args) == 1):
        raise EDM2Error("is a tensor without a storage")
    if type(storage.args[0]) is not bytes:
        raise EDM2Error("is a tensor whose storage is not bytes")
    return StoredTensor(storage.args[0], offset, shape, strides)


def _counts(value: Any) -> tuple[Any, ...]:
    return value if type(value) is tuple else (None,)


def _read_storage(raw: bytes) -> Tensor:
    """The values [n] of a storage in torch's format before 1.6: five pickles, the count, the values."""
    stream = Stream(io.BytesIO(raw), len(raw))
    magic, protocol, machine, stored, keys = (run(stream, ALLOWED, persistent=True) for _ in range(5))
    if (magic, protocol) != (STORAGE_MAGIC, STORAGE_PROTOCOL) or type(machine) is not dict:
        raise EDM2Error(FOREIGN)
    if machine.get("little_endian") is not True:
        raise EDM2Error("a storage was written on a machine with another order of bytes")
    dtype, key, count = _describe_storage(stored)
    start = stream.tell() + 8
    if type(keys) is not list or keys != [key] or int.from_bytes(raw[start - 8 : start], "little") != count:
        raise EDM2Error("a storage contradicts itself: the file is damaged; download it again")
    if len(raw) - start != count * dtype.itemsize:
        raise EDM2Error(f"a storage holds {len(raw) - start} bytes where {count * dtype.itemsize} belong")
    return torch.frombuffer(bytearray(memoryview(raw)[start:]), dtype=dtype)


def _describe_storage(stored: Any) -> tuple[torch.dtype, str, int]:
    """The type, key and number of values in ("storage", class, key, device, count[, view])."""
    record = stored.args[0] if isinstance(stored, Call) and stored.name == STORED else None
    if type(record) is not tuple or len(record) not in (5, 6) or record[0] != "storage" or record[5:] not in VIEWS:
        raise EDM2Error(FOREIGN)
    _, kind, key, _, count = record[:5]
    if type(kind) is not Global or type(key) is not str or type(count) is not int or count < 1:
        raise EDM2Error(FOREIGN)
    return DTYPES[kind.name], key, count
