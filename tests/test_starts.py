"""Commands that users wait for import what they need and no more: what is imported decides how long they take.

benchmarks/starts.py measures them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.starts import commands

ROOT = Path(__file__).parents[1]
# Each command in turn in one process, and what it has brought in that it should not.
SCRIPT = """
import contextlib, io, json, sys
from scaling.cli.main import app

READING = ("torch", "scipy", "matplotlib", "PIL", "webdataset", "jinja2")
HEAVY = {"fit": ("torch", "scipy.stats", "scipy.optimize", "matplotlib", "PIL", "webdataset")}
HEAVY["study report"] = ("torch", "scipy.stats", "scipy.optimize", "webdataset")
for name, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app(arguments, standalone_mode=False)
    print(name, bool(out.getvalue()), [each for each in HEAVY.get(name, READING) if each in sys.modules])
"""


def test_commands_import_what_they_need(tmp_path: Path) -> None:
    cases = commands(tmp_path, methods=["teacher"])
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{name} True []" for name in cases]
    assert [*cases][-2:] == ["fit", "study report"]  # after all that need less
