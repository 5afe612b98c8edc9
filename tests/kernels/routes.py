"""The paths under test and the types that each is tested with on this machine."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import pytest
import torch

from tests.kernels.judge import Path

HALF = (torch.float16, torch.bfloat16)


def module_name(path: str, package: str = "kernels") -> str:
    """Where a path's functions are, by the name it has in `kernels.attention`."""
    return f"{package}.chunked" if path == "chunked" else f"{package}.{path}_path"


def module(path: str) -> Path:
    """The module of a path."""
    return cast(Path, import_module(module_name(path)))


def routes(device: str) -> list[tuple[str, torch.dtype]]:
    """(path, type) pairs. Triton's interpreter computes bfloat16 wrongly, so the CPU does without."""
    types = {"chunked": (*HALF, torch.float32, torch.float64), "triton": (torch.float16, torch.float32)}
    if device == "cuda":
        types["triton"] = (*HALF, torch.float32)
    return [(path, dtype) for path, those in types.items() for dtype in those]


def shrink(path: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks small, so that short cases take many: chunked 8 rows by 16 keys of a head, triton 32 by 32."""
    if path == "chunked":
        for name, size in (("ROWS", 8), ("KEYS", 16), ("LOGITS", 1)):
            monkeypatch.setattr(f"{package}.chunked_tiles.{name}", size)
    else:
        functions = import_module(module_name(path, package))
        for name in ("forward_blocks", "query_blocks", "key_blocks"):
            monkeypatch.setattr(functions, name, lambda *_: functions.Blocks(32, 32, 4, 1))


def label(value: object) -> str | None:
    """The name of a type in a test's id."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None
