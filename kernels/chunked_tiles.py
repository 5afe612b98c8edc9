"""How `kernels.chunked` cuts its work: tiles of query rows by keys, for some heads at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Large tiles: each operation on one is a parallel region, which is dear where cores are shared, and the products run at
# full speed from a few hundred rows and keys on. Measured on two cores, 2**16 to 2**22 logits a tile differ by 15 %.
ROWS, KEYS = 1024, 1024  # query rows and keys of a tile; ROWS is at most KEYS
LOGITS = 2**18  # logits of a tile for each thread, or for four: where rows and keys are few, more heads share it


class Rows(NamedTuple):
    """What comes by query row: [B, H, Nq, X] or [B, H, Nq]; of a tile [n, R, X] or [n, R, 1]."""

    q: Tensor
    tq: Tensor | None
    lse: Tensor | None = None
    out: Tensor | None = None
    grad: Tensor | None = None
    mean: Tensor | None = None
    tangent: Tensor | None = None
    grad_tangent: Tensor | None = None


class Keys(NamedTuple):
    """What comes by key: [B, G, Nk, X]; of a tile [n, keys, X]."""

    k: Tensor
    v: Tensor
    tk: Tensor | None
    tv: Tensor | None

    def block(self, keys: slice) -> Keys:
        """Some of the keys of a tile's heads."""
        return Keys._make(each(self, lambda x: x[:, keys]))


class Part(NamedTuple):
    """A tile's attention over some of the keys: out and tangent [n, R, Dv], all else [n, R, 1]."""

    out: Tensor
    top: Tensor  # the largest logit
    total: Tensor  # the sum of e^(logit - top)
    tangent: Tensor | None = None
    mean: Tensor | None = None


@dataclass(frozen=True)
class Tiling:
    """The shapes and the spans: query heads that share keys lie together, [B * G, group, Nq, X]."""

    lengths: tuple[int, int, int, int]  # B * G, group, Nq, Nk
    steps: tuple[int, int, int]  # of B * G, Nq and Nk
    causal: bool
    dtype: torch.dtype  # of logits and sums

    @staticmethod
    def of(q: Tensor, k: Tensor, causal: bool) -> Tiling:
        """The tiling for q [B, H, Nq, D] and k [B, G, Nk, D]."""
        group = q.shape[1] // max(1, k.shape[1])
        rows = max(1, ROWS // max(1, group))
        keys = KEYS - KEYS % rows  # a multiple of rows: under a mask, a row sees the first key of all its blocks
        size = max(1, group * min(rows, q.shape[2]) * min(keys, k.shape[2]))
        heads = max(1, LOGITS * max(4, torch.get_num_threads()) // size)
        lengths = (k.shape[0] * k.shape[1], group, q.shape[2], k.shape[2])
        return Tiling(lengths, (heads, rows, keys), causal, wide(q.dtype))

    def head_spans(self) -> list[slice]:
        """Spans of B * G."""
        return spans(self.lengths[0], self.steps[0])

    def row_spans(self) -> list[slice]:
        """Spans of Nq."""
        return spans(self.lengths[2], self.steps[1])

    def key_spans(self, rows: slice | None = None) -> list[slice]:
        """Spans of Nk: all, or those that `rows` see."""
        seen = self.lengths[3] if rows is None or not self.causal else min(self.lengths[3], rows.stop)
        return spans(seen, self.steps[2])

    def mask(self, rows: slice, keys: slice, device: torch.device) -> Tensor | None:
        """True where a row must not see a key, [R, keys]; None where every row sees them all."""
        if not self.causal or keys.stop <= rows.start + 1:
            return None
        i = torch.arange(rows.start, rows.stop, device=device).repeat(self.lengths[1])
        return torch.arange(keys.start, keys.stop, device=device) > i[:, None]

    def grouped(self, x: Tensor) -> Tensor:
        """[B, H, Nq, X] or [B, H, Nq] -> [B * G, group, Nq, X or 1]."""
        return x.reshape(*self.lengths[:3], *(x.shape[3:] or (1,)))

    def rows(self, items: Iterable[Tensor | None], heads: slice, rows: slice) -> list[Any]:
        """The tile's [n, R, X] of each grouped item: views where type and strides allow, else copies."""
        return each(items, lambda x: x[heads, :, rows].flatten(1, 2).to(self.dtype))

    def keys(self, items: Iterable[Tensor | None], heads: slice) -> list[Any]:
        """[n, Nk, X] of each [B * G, Nk, X]: views or copies."""
        return each(items, lambda x: x[heads].to(self.dtype))

    def scratch(self, like: Tensor, count: int) -> Tensor:
        """`count` flat buffers for the logits of a tile."""
        heads, group, rows, keys = self.lengths
        sizes = (min(length, step) for length, step in zip((heads, rows, keys), self.steps, strict=True))
        return like.new_empty(count, group * math.prod(sizes), dtype=self.dtype)


def store(targets: Iterable[Tensor | None], values: Iterable[Tensor | None], where: tuple[slice, ...]) -> None:
    """Copy a tile's values to their place, unless they are views of it."""
    for target, value in zip(targets, values, strict=True):
        if target is not None and value is not None and target[where].data_ptr() != value.data_ptr():
            target[where].copy_(value.view(target[where].shape))


def each(items: Iterable[Tensor | None], function: Callable[[Tensor], Tensor]) -> list[Any]:
    """The function of every tensor; what is absent stays so."""
    return [None if x is None else function(x) for x in items]


def present(*pairs: tuple[Tensor | None, Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of which both are there."""
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def by_pair(x: Tensor) -> Tensor:
    """[B, G, Nk, X] -> [B * G, Nk, X]."""
    return x.flatten(0, 1)


def spans(length: int, step: int) -> list[slice]:
    """Consecutive slices of at most `step`."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of logits and sums: half precision is widened."""
    return dtype if dtype == torch.float64 else torch.float32
