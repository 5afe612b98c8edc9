"""Forward passes that compute shapes alone, faster than the meta device does by itself.

On the meta device torch works out the shape of every operation in Python, about 0.1 ms each, and most operations of a
network are elementwise. Under this mode their results are taken from the broadcast of their inputs instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ShapesOnly(TorchDispatchMode):
    """Within the block, elementwise operations and means on meta tensors cost little; all others run as ever.

    Shapes are exact; the type is that of the first tensor, which is enough to count multiply-adds. Enter it before the
    mode that counts: `with ShapesOnly(): count_macs(network)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._elementwise: dict[Any, bool] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to be ready for it costs as much as the counting

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, Tensor)]
        if tensors and not kwargs and all(tensor.is_meta for tensor in tensors):
            if self._is_elementwise(func):
                return torch.empty(_broadcast(tensors), dtype=tensors[0].dtype, device="meta")
            if func is torch.ops.aten.mean.dim:
                return _mean(*args)
        return func(*args, **kwargs)

    def _is_elementwise(self, func: Any) -> bool:
        """Whether the operation makes a new tensor element by element."""
        if func not in self._elementwise:
            self._elementwise[func] = torch.Tag.pointwise in func.tags and not func._schema.is_mutable
        return self._elementwise[func]


def _broadcast(tensors: list[Tensor]) -> torch.Size:
    shapes = {tensor.shape for tensor in tensors}
    return shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)


def _mean(x: Tensor, dims: list[int], keepdim: bool = False) -> Tensor:
    reduced = {dim % x.ndim for dim in dims}
    kept = [1 if n in reduced else size for n, size in enumerate(x.shape) if keepdim or n not in reduced]
    return torch.empty(kept, dtype=x.dtype, device="meta")
