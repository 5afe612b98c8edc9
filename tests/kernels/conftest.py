"""Blocks small enough that short cases take many of them."""

from __future__ import annotations

import pytest

from tests.kernels.routes import shrink


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short cases take many blocks on every path."""
    for path in ("chunked", "triton"):
        shrink(path, "kernels", monkeypatch)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The interpreter computes with numpy, which warns where a GPU is silent: at NaN and at overflow."""
    item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
