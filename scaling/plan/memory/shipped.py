"""The timelines of the families in configs/family, counted beforehand, for one torch and one Python.

`python -m scaling.plan.memory.ship` counts them again, after a change to what a training step holds;
tests/plan/test_remembered.py compares them with a count.
"""

from __future__ import annotations

import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from scaling.plan.memory.cache import Timeline

FILE = Path(__file__).with_name("timelines.json")


@cache
def shipped() -> dict[str, Timeline]:
    """The shipped timelines by key; none where torch or Python are not those that they were counted with."""
    content = json.loads(FILE.read_bytes())
    return content["timelines"] if content["counted_with"] == versions() else {}


def versions() -> dict[str, str]:
    """Of torch without the build, and of Python without the patch: neither changes when a tensor is freed."""
    return {"torch": version("torch").partition("+")[0], "python": platform.python_version().rpartition(".")[0]}
