"""Latents and labels of one rank, read ahead of training and, for a GPU, sent from pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipeline.loader import Loader
from data_pipeline.reader import Rows
from data_pipeline.stream import SampleStream, Taken
from scaling.config.sections import Loading
from scaling.run.devices import onto


class Fed(NamedTuple):
    """Latents float32 [B, C, H, W] and labels int64 [B] on the device; how many samples stand in for lost ones."""

    latents: Tensor
    labels: Tensor
    stand_ins: int


class Feed:
    """The samples at `size` positions from any on, as threads of `data.workers` have read them.

    Memory is used again and again: with fresh memory for each batch the system would spend as long on clearing it as
    on reading.
    """

    def __init__(
        self,
        stream: SampleStream,
        size: int,
        following: Callable[[int], int | None],
        loading: Loading,
        device: torch.device,
    ) -> None:
        """following: the first position of the batch after the one that begins at a position; None after the last."""
        self._stream, self._size, self._device = stream, size, device
        self._loader = Loader(self._read, following, loading.workers, loading.read_ahead)
        self._free: deque[tuple[Rows, torch.cuda.Event | None]] = deque()

    def get(self, first: int) -> Fed:
        """The samples at positions first .. first + size - 1. DataError."""
        taken = self._loader.get(first)
        stored = torch.from_numpy(taken.rows.array)
        if self._device.type == "cuda":
            latents = stored.to(self._device, non_blocking=True).float()
            copied = torch.cuda.Event()
            copied.record()
        else:
            latents, copied = stored.to(torch.float32, copy=True), None
        self._free.append((taken.rows, copied))
        return Fed(latents, onto(torch.from_numpy(taken.labels), self._device), taken.stand_ins)

    def close(self) -> None:
        """Read no further."""
        self._loader.close()

    def _read(self, first: int) -> Taken:
        return self._stream.read(first, self._size, self._rows())

    def _rows(self) -> Rows:
        """Memory that no batch is in any more, or new."""
        try:
            rows, copied = self._free.popleft()
        except IndexError:
            return self._new_rows()
        if copied is not None:
            copied.synchronize()
        return rows

    def _new_rows(self) -> Rows:
        rows = self._stream.reader.rows(self._size)
        if self._device.type != "cuda":
            return rows
        return Rows(torch.from_numpy(rows.array).pin_memory().numpy())
