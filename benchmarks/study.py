"""Where did a study's time go, and how much memory did it take?

    python benchmarks/study.py runs/fashion [--json FILE]

Reads what the study's launches left; times are sums over all launches. Runs work side by side, so the stages of the
runs add up to more than the study's wall time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scaling.run.home import StudyFolder
from scaling.run.schemas import Environment

STAGES = ("train", "sample", "evaluate")


def read(folder: Path) -> dict[str, Any]:
    """The study's environment, its runs' timings, and sums by method."""
    study = StudyFolder(folder)
    environment = (study.read_environment() or Environment()).model_dump()
    timings = {home.name: home.read_timings() for home in study.homes()}
    runs = {name: found.model_dump(exclude_none=True) for name, found in timings.items() if found is not None}
    methods: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(STAGES, 0.0))
    for name, timings in runs.items():
        for stage in STAGES:
            methods[name.split("-")[0]][stage] += timings.get(stage, 0.0)
    return {
        "study": environment["study"],
        "started": environment["started"],
        "commit": environment["commit"],
        "machine": environment["machine"],
        "wall_seconds": environment["wall_seconds"],
        "stages": environment["stages"],
        "methods": dict(methods),
        "peak_memory_bytes": max(timings["peak_memory_bytes"] for timings in runs.values()),
        "runs": runs,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """The wall time by stage, and the runs' own time by method and stage."""
    wall = Table(title=f"study {result['study']}: wall time {result['wall_seconds']:.0f} s")
    wall.add_column("stage")
    wall.add_column("seconds", justify="right")
    for stage, seconds in result["stages"].items():
        wall.add_row(stage, f"{seconds:.1f}")
    inside = Table(
        title="inside the runs, seconds of one worker", caption=f"largest run: {_mib(result)} MiB at its peak"
    )
    for heading in ("method", *STAGES):
        inside.add_column(heading, justify="left" if heading == "method" else "right")
    for method, seconds in result["methods"].items():
        inside.add_row(method, *(f"{seconds[stage]:.1f}" for stage in STAGES))
    return [wall, inside]


def _mib(result: dict[str, Any]) -> int:
    return result["peak_memory_bytes"] // 2**20


def main() -> None:
    """Print the tables and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a study")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    result = read(arguments.folder)
    for table in tables(result):
        Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
