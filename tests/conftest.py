"""What must be set before any test imports anything, how much of the night there is, and a browser."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.plan.memory import cache

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, by whichever test

BEGUN = time.monotonic()
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=float("inf"), help="start no test later than this")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where --seconds are over, tests are skipped, and pytest's summary counts them under this reason."""
    seconds: Any = item.config.getoption("seconds")
    if time.monotonic() - BEGUN > seconds:
        pytest.skip(f"not run: {seconds:g} s were over")


@pytest.fixture(scope="session", autouse=True)
def user_cache() -> Iterator[Callable[[], Path | None]]:
    """No test reads or writes the user's cache; the function that names its folder."""
    folder = cache.cache_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", lambda: None)
        yield folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if BROWSER is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
