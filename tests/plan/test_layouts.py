"""Rules for the meta device against torch's own, and what the plan does without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import permutations, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.network import NetworkConfig
from scaling.config.sections import Precision
from scaling.plan.memory import timeline
from scaling.plan.memory.timeline import transient_events
from scaling.plan.meta import layouts, shapes
from scaling.plan.meta.layouts import Layout
from scaling.plan.meta.shapes import ShapesOnly
from tests.plan.test_plan_command import IMAGENET

TINY = NetworkConfig(8, 4, 10, 16, (1, 2), 1, (4,), head_channels=8)
aten = torch.ops.aten


def meta(*shape: int, order: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor whose dimensions lie in memory in that order, the outermost first."""
    order = order or tuple(range(len(shape)))
    stored = torch.empty([shape[n] for n in order], dtype=dtype, device="meta")
    return stored.permute([order.index(n) for n in range(len(shape))])


def agree(func: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether there is a rule for these operands; fails where it is not torch's."""
    found = layouts.results(func, args, kwargs)
    if found is not None:
        out = func(*args, **kwargs)
        made = out if isinstance(out, tuple) else (out,)
        assert found == tuple(None if x is None else Layout(tuple(x.shape), x.stride(), x.dtype) for x in made)
    return found is not None


SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (2, 1, 4)),
    ((1, 3, 4), (2, 3, 1)),
    ((2, 1, 1), (1, 3, 1)),
    ((1, 1, 5), (1, 1, 5)),
]


@pytest.mark.parametrize("pair", SHAPES)
def test_elementwise_layouts_are_those_of_torch(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """In every order in memory, with gaps and repeats, and of operands of fewer dimensions."""
    orders = list(permutations(range(3)))
    for first, second in product(orders, orders):
        x, y = meta(*pair[0], order=first), meta(*pair[1], order=second)
        assert agree(aten.mul.Tensor, x, y)
        assert not agree(aten.add.Tensor, x, y, alpha=2)
        assert agree(aten.where.self, x > 0, x, y)
        assert agree(aten.add.Tensor, x[..., :1], y)
        assert agree(aten.add.Tensor, x.expand(2, 3, x.shape[2]), meta(1))
        assert agree(aten.neg.default, x)
        assert agree(aten.zeros_like.default, x, dtype=torch.int8)
        assert agree(aten.clone.default, x)
        assert agree(aten.clone.default, x, memory_format=torch.contiguous_format)


def test_elementwise_types_are_those_of_torch() -> None:
    types = [torch.float32, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool]
    for first, second in product(types, types):
        x, y, scalar = meta(2, 3, dtype=first), meta(3, dtype=second), meta(dtype=second)
        assert agree(aten.mul.Tensor, x, y)
        assert agree(aten.div.Tensor, x, scalar)
        assert agree(aten.eq.Tensor, x, y)
        assert agree(aten.mul.Tensor, x, 2.5)
        assert agree(aten.exp.default, x)


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("shape", [(2, 6, 4, 4), (2, 6, 1, 1), (1, 1, 4, 4)])
def test_other_layouts_are_those_of_torch(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    """Wherever there is a rule; for what is row-major there is one."""
    x = meta(*shape, order=order)
    weight = meta(5, shape[1], 3, 3)
    convolution = (x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    for dtype in (None, torch.float64):
        agree(aten.linalg_vector_norm.default, x, 2, [1], True, dtype=dtype)
        agree(aten.sum.dim_IntList, x, [0, -1], dtype=dtype)
        agree(aten.mean.dim, x, [2], True, dtype=dtype)
    agree(aten.mean.default, x)
    agree(aten.stack.default, [x, x])
    agree(aten.cat.default, [x, x[:, :1]], 1)
    agree(aten._softmax.default, x, -1, False)
    agree(aten._softmax_backward_data.default, x, x, -1, torch.float32)
    agree(aten.convolution.default, *convolution)
    if shape[2] > 1:
        agree(aten.avg_pool2d.default, x, [2, 2])
        agree(aten.avg_pool2d_backward.default, F.avg_pool2d(x, 2), x, [2, 2], [], [0, 0], False, True, None)
    grad, options = meta(shape[0], 5, *shape[2:]), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    agree(aten.convolution_backward.default, grad, x, weight, None, *options, [True, True, False])
    a, b = x.flatten(0, 1), meta(shape[0] * shape[1], shape[3], 7)
    assert agree(aten.bmm.default, a, b)
    assert agree(aten.mm.default, a[0], b[0])
    if x.is_contiguous() and shape == (2, 6, 4, 4):
        assert agree(aten.convolution.default, *convolution)
        assert agree(aten.cat.default, [x, x[:, :1]], 1)


WRONG: list[Callable[[], object]] = [
    lambda: meta(2) + meta(3),
    lambda: meta(1, 3).mul_(meta(2, 3)),
    lambda: meta(2).sum(1),
    lambda: meta(2, 3) @ meta(2, 3),
    lambda: torch.mm(meta(1, 2, 2), meta(1, 2, 2)),
    lambda: torch.cat([meta(2), meta(2)], 1),
    lambda: F.avg_pool2d(meta(1, 1, 1, 1), 2),
    lambda: F.conv2d(meta(1, 2, 4, 4), meta(1, 3, 3, 3)),
]


@pytest.mark.parametrize("operation", WRONG)
def test_what_cannot_be_is_refused(operation: Callable[[], object]) -> None:
    with ShapesOnly(), pytest.raises((RuntimeError, IndexError)):
        operation()


def test_nothing_is_guessed() -> None:
    """What a rule does not cover is torch's: other devices, transposed and grouped convolutions, other operations."""
    with ShapesOnly():
        assert meta().sum(0).shape == ()
        assert F.conv2d(meta(2, 4, 4, 4), meta(6, 2, 1, 1), groups=2).shape == (2, 6, 4, 4)
        assert (torch.arange(3) + 1).tolist() == [1, 2, 3]
        assert torch.arange(0.0, 3.0, device="meta").shape == (3,)
        assert F.conv_transpose2d(meta(2, 3, 4, 4), meta(3, 5, 2, 2), stride=2).shape == (2, 5, 8, 8)
        assert meta(4, 3).max(0).values.shape == (3,)
    assert layouts.results(aten.max.dim, (meta(4, 3), 0), {}) is None


@contextmanager
def torch_alone() -> Iterator[None]:
    """Without any rule, and with torch's own activation checkpointing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "results", lambda *_: None)
        patch.setattr(shapes, "_operations", {})
        patch.setattr(timeline, "without_compiler", nullcontext)
        yield


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dual", [False, True])
def test_the_same_storages_come_and_go(dual: bool, checkpointing: bool, precision: Precision) -> None:
    """With rules and our checkpointing as with what torch does by itself, to the byte and in order."""
    count: Callable[[], list[int]] = lambda: transient_events(TINY, 3, dual, checkpointing, precision, None)  # noqa: E731
    with torch_alone():
        expected = count()
    assert count() == expected


PLAN = """
import sys
from scaling.cli.main import app
app(["study", "plan", sys.argv[1], "--json"], standalone_mode=False)
sys.exit(", ".join(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules) or 0)
"""


def test_a_plan_does_without_the_compiler() -> None:
    """torch._dynamo takes a second to import; every operation of the study's networks has a rule."""
    done = subprocess.run([sys.executable, "-c", PLAN, str(IMAGENET)], capture_output=True, text=True, check=False)
    assert (done.stderr.strip(), done.returncode) == ("", 0)
