"""What must be set before any test imports anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from scaling.plan.memory import cache

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, by whichever test


@pytest.fixture(scope="session", autouse=True)
def user_cache() -> Iterator[Callable[[], Path | None]]:
    """No test reads or writes the user's cache; the function that names its folder."""
    folder = cache.cache_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", lambda: None)
        yield folder
