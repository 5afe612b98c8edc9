"""Processes in which this project cannot be imported, as on a stranger's machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Of a checkout and of an editable installation alike.
WITHOUT = """
import os, sys
sys.path[:] = [path for path in sys.path if not os.path.isdir(os.path.join(path, "scaling"))]
sys.meta_path[:] = [one for one in sys.meta_path if not getattr(one, "__module__", "").startswith("__editable__")]
"""
AFTER = """
import importlib.util
assert [name for name in ("models", "scaling", "data_pipeline") if importlib.util.find_spec(name)] == []
"""


def run_without(program: str, folder: Path, *arguments: str | Path, **variables: str) -> str:
    """What a program prints in that folder, its argv[1:] the arguments; it fails where ours can be imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore", **variables}
    command = [sys.executable, "-P", "-c", WITHOUT + program + AFTER, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
