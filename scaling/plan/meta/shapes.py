"""Operations on the meta device, at a tenth of what torch takes for them.

On the meta device tensors have shapes and no content, and torch works out the shape of every result in Python. Under
this mode a result is made from the layouts that `scaling.plan.meta.layouts` or, for one that it has no rule for, torch
gave when the operation first met operands of those layouts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scaling.plan.meta.layouts import Layout, Results, broadcast, results

_UNKNOWN: Results = ()
META = torch.device("meta")
_UNDECLARED_VIEWS = (torch.ops.aten._unsafe_view.default,)
_UNTAGGED = (torch.ops.aten.masked_fill_.Scalar,)  # elementwise and in place, though nothing says so


class ShapesOnly(TorchDispatchMode):
    """Within the block, operations on meta tensors cost little. Views, and whatever is not on meta, run as ever."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to be ready for it costs as much as the counting

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The operation's results."""
    if (operation := _operations.get(func)) is None:
        operation = _operations[func] = _Operation(func)
    return operation(args, kwargs)


class _Operation:
    """One operation, and the layouts of its results by those of its operands."""

    def __init__(self, func: Any) -> None:
        returns, changes = func._schema.returns, func._schema.is_mutable
        self.func = func
        self.makes_new = not changes and not any(x.alias_info for x in returns) and func not in _UNDECLARED_VIEWS
        self.fills = changes and len(returns) == 1 and (torch.Tag.pointwise in func.tags or func in _UNTAGGED)
        self.many = len(returns) > 1
        self.layouts: dict[Hashable, Results | None] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not self.makes_new:
            return args[0] if self.fills and _fits_in_place(args) else self.func(*args, **kwargs)
        key: Hashable = tuple([_key(x) for x in args])
        if kwargs:
            key = key, *((name, _key(value)) for name, value in kwargs.items())
        layouts = self.layouts.get(key, _UNKNOWN)
        if layouts is _UNKNOWN:
            layouts = self.layouts[key] = self._work_out(args, kwargs)
        if layouts is None:
            return self.func(*args, **kwargs)
        return tuple(map(_make, layouts)) if self.many else _make(layouts[0])

    def _work_out(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Results | None:
        """None where the results are not tensors on meta."""
        found = results(self.func, args, kwargs) if _on_meta(args, kwargs) else None
        if found is None:
            out = self.func(*args, **kwargs)
            made = out if isinstance(out, tuple) else (out,)
            if all(x is None or (isinstance(x, Tensor) and x.is_meta) for x in made):
                found = tuple(None if x is None else Layout(tuple(x.shape), x.stride(), x.dtype) for x in made)
        return found


_operations: dict[Any, _Operation] = {}


def _on_meta(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether all tensors are on the meta device or, where there are none, the result shall be."""
    flat = [y for x in args for y in (x if isinstance(x, (tuple, list)) else (x,))]
    tensors = [x for x in flat if isinstance(x, Tensor)]
    return all(x.is_meta for x in tensors) if tensors else kwargs.get("device") == META


def _fits_in_place(args: tuple[Any, ...]) -> bool:
    """Whether the first operand can hold what an elementwise operation makes of all."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    return args[0] is tensors[0] and all(x.is_meta for x in tensors) and broadcast(tensors) == tensors[0].shape


def _make(layout: Layout | None) -> Tensor | None:
    return None if layout is None else torch.empty_strided(layout[0], layout[1], dtype=layout[2], device=META)


def _key(x: Any) -> Hashable:
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype, x.is_meta
    if isinstance(x, (tuple, list)):
        return tuple(map(_key, x))
    return type(x), x  # 1, 1.0 and True are equal, and give other types
