"""What becomes of a study whose files are damaged?

    PYTHONPATH=. python benchmarks/damage.py [--damages 3000] [--seed 0] [--processes 2] [--found FILE.jsonl]

Each damage hits one file of a finished or of a half-done study, drawn at random: a bit is turned, the file is cut,
emptied, replaced by a folder or by the content of another file of the study. Then `study status`, `study report` and
`study run` follow, and the study is compared with the undamaged one. Allowed are the right scores at the end, or a
refusal (exit code 2 or 1) that names the file; not a traceback, not other scores. Writes
benchmarks/results/damage.md; exits with 1 where a fault was seen. With --found, outcomes are kept in that file as they
come, and a second start goes on after them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from scaling.study.machine import machine
from tests.study.damages import FINE, KINDS, STATES, Outcome, outcome, start, templates

RESULT = Path(__file__).parent / "results" / "damage.md"


def trials(numbers: Sequence[int], seed: int, processes: int) -> Iterator[tuple[int, Outcome]]:
    """How each ended, `processes` at a time."""
    with tempfile.TemporaryDirectory(prefix="damage-") as name, ThreadPoolExecutor(processes) as threads:
        templates(Path(name))
        yield from zip(numbers, threads.map(lambda n: outcome(start(Path(name), n, seed)), numbers), strict=True)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Counts of the endings by state and kind of damage."""
    counts = Counter((outcome.state, outcome.kind, outcome.ending) for outcome in outcomes)
    endings = sorted({*FINE, *(outcome.ending for outcome in outcomes)})
    yield f"| study | damage | {' | '.join(endings)} |"
    yield "|---" * (2 + len(endings)) + "|"
    for state in STATES:
        for kind in KINDS:
            yield f"| {state} | {kind} | {' | '.join(str(counts[state, kind, ending]) for ending in endings)} |"


def main() -> int:
    """Print the table and every fault; 1 where there was one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--found", type=Path)
    given = parser.parse_args()
    kept = given.found.read_text().splitlines() if given.found and given.found.exists() else []
    outcomes, begun = [Outcome(**json.loads(line)) for line in kept], time.monotonic()
    for _, found in trials(range(len(outcomes), given.damages), given.seed, given.processes):
        outcomes.append(found)
        if given.found:
            with given.found.open("a") as stream:
                stream.write(json.dumps(asdict(found)) + "\n")
        if found.ending not in FINE:
            print(f"\n{found.ending}: {found.kind} of {found.file} ({found.state})\n{found.detail}", flush=True)
    here = machine(torch.device("cpu"))
    lines = [f"{len(outcomes)} damages, seed {given.seed}; {here['cpu']}, {here['cores']} cores, torch "]
    lines[0] += f"{torch.__version__}, {datetime.now(UTC).date()}, {time.monotonic() - begun:.0f} s"
    lines += ["", *table(outcomes)]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(any(found.ending not in FINE for found in outcomes))


if __name__ == "__main__":
    sys.exit(main())
