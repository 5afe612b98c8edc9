"""Judge every path, type and case, and show the worst ratio to the bound by group: python -m tests.kernels.wide

With a GPU the kernels run on it, in several processes since compiling takes most of the time; without one triton runs
in its interpreter, for some minutes. Exits with 1 if any ratio is above 1 or any case fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from tests.kernels.cases import GROUPS, SPECS, larger
from tests.kernels.judge import judge_backward, judge_forward
from tests.kernels.routes import label, module, routes

Task = tuple[str, torch.dtype, str, bool]  # path, type, case, larger

FAILED = float("inf")


def judge(task: Task) -> dict[str, float | str]:
    """The ratios of one case, or what it failed with as `error`."""
    path, dtype, name, enlarge = task
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = larger(SPECS[name]) if enlarge else SPECS[name]
    try:
        case = spec.draw(dtype, device)
        found: dict[str, float | str] = dict(judge_forward(module(path), case))
        # At the edge of overflow a float32 lse cannot tell the weights of equal keys apart.
        return found if spec.group == "edge" else found | judge_backward(module(path), case)
    except Exception as error:  # reported with its case: the other cases go on
        return {"error": f"{type(error).__name__}: {error}"}


def judge_all(tasks: Sequence[Task], workers: int) -> dict[Task, dict[str, float | str]]:
    """Judge each task in one of several fresh processes, in an order that gives them different kernels to compile."""
    spread = sorted(tasks, key=lambda task: zlib.crc32(repr(task).encode()))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_quietly) as pool:
        found = dict(zip(spread, pool.map(judge, spread), strict=True))
    return {task: found[task] for task in tasks}


def worst(found: dict[str, float | str]) -> float:
    """The largest ratio of a case; inf if it failed."""
    return max(x if isinstance(x, float) else FAILED for x in found.values())


def _quietly() -> None:
    os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")  # numpy's, at NaN and overflow


def _table(results: dict[Task, dict[str, float | str]]) -> list[str]:
    """A Markdown row for each path, type and group."""
    rows = ["| path | type | group | cases | worst ratio | of | in case |", "|---|---|---|---|---|---|---|"]
    for path, dtype in dict.fromkeys(task[:2] for task in results):
        for group in GROUPS:
            those = {t: r for t, r in results.items() if t[:2] == (path, dtype) and SPECS[t[2]].group == group}
            if those:
                task = max(those, key=lambda t: worst(those[t]))
                found = those[task]
                what = max(found, key=lambda n: worst({n: found[n]}))
                value = f"{found[what]:.3f}" if isinstance(found[what], float) else found[what]
                rows.append(f"| {path} | {label(dtype)} | {group} | {len(those)} | {value} | {what} | {task[2]} |")
    return rows


def main() -> int:
    """Judge what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--path", choices=["chunked", "triton"], help="this path alone")
    parser.add_argument("--group", choices=GROUPS, help="this group of cases alone")
    parser.add_argument("--larger", action="store_true", help="five times the lengths: several blocks of a real launch")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [(p, d) for p, d in routes(device) if options.path in (None, p)]
    names = [s.name for s in SPECS.values() if options.group in (None, s.group)]
    results = judge_all([(p, d, name, options.larger) for p, d in pairs for name in names], options.workers)
    print("\n".join(_table(results)))
    return int(any(worst(found) > 1 for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
