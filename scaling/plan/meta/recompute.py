"""Activation checkpointing for counting: the tensors that torch's own keeps and computes again, without its compiler.

`torch.utils.checkpoint` imports torch._dynamo to guard itself against being compiled, which takes longer than to count
a network. What is here is its way without reentrance and without those guards: the same storages come and go, in the
same order (tests/plan/test_layouts.py compares both).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from models import dual


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the block networks recompute in the way of this module."""
    of_torch = dual.checkpoint
    dual.checkpoint = _checkpoint
    try:
        yield
    finally:
        dual.checkpoint = of_torch


def _checkpoint(op: Callable[..., Any], *inputs: Tensor, use_reentrant: bool, preserve_rng_state: bool) -> Any:
    assert not use_reentrant, "another way of checkpointing than the one that is counted"
    assert not preserve_rng_state, "counting has no random numbers"
    frame = _Frame(op, inputs)
    with saved_tensors_hooks(frame.pack, frame.unpack):
        return op(*inputs)


class _Saved:
    """Stands in the graph for a tensor, and holds it from its recomputation until the graph takes it."""

    value: Tensor | None = None


class _Complete(Exception):
    """All that the graph needs is computed again."""


class _Frame:
    """One call that keeps its inputs alone."""

    def __init__(self, op: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
        self.op = op
        self.inputs = inputs
        self.saved: list[weakref.ref[_Saved]] = []
        self.recomputed = 0

    def pack(self, _: Tensor) -> _Saved:
        saved = _Saved()
        self.saved.append(weakref.ref(saved))
        return saved

    def unpack(self, saved: _Saved) -> Tensor:
        if not self.recomputed:
            self._recompute()
        value, saved.value = saved.value, None
        assert value is not None, "taken twice, or not computed again"
        return value

    def _recompute(self) -> None:
        frame = weakref.ref(self)

        def keep(x: Tensor) -> Tensor:
            x = x.detach() if x.requires_grad else x
            this = frame()
            assert this is not None, "gone while it recomputes"
            if (saved := this.saved[this.recomputed]()) is not None:
                saved.value = x
            this.recomputed += 1
            if this.recomputed == len(this.saved):
                raise _Complete
            return x

        try:
            with saved_tensors_hooks(keep, lambda x: x), torch.enable_grad():
                self.op(*self.inputs)
        except _Complete:
            pass
