"""Our L(N, D) beside simple-scaling-laws 0.2.0 on the same tables: how often intervals hold the truth, at what time.

    python3.12 -m venv APART && APART/bin/pip install simple-scaling-laws==0.2.0
    PYTHONPATH=. APART/bin/python benchmarks/beside_simple_scaling_laws.py [--tables 40]

Its own simulator makes the tables: 3 x 3 sizes and amounts of data, two or four runs of each, whose losses scatter by 1
%. Both resample 500 times. Times are of the processor. Prints a table and writes benchmarks/results/beside-ssl.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import write_text_atomic
from scaling.analysis.surface import SurfaceData, fit_surface

RESULT = Path(__file__).parent / "results" / "beside-ssl.md"
TARGET = "test_loss__cross_entropy"
TRUTH = {"E": 1.0, "A": 2.0, "alpha": 0.3, "B": 1.5, "beta": 0.25}
# Its parameters are of N and D over a reference: 10^7 parameters, 10^4 data. Exponents and E are the same.
COMPARED = ("E", "alpha", "beta")
DRAWN = ("E", "A", "B", "alpha", "beta")  # the columns of its draws, in another order than its parameters
RESAMPLES = 500
Held = dict[str, tuple[float, float]]


def theirs(frame: Any) -> Held:
    """Its 95 % intervals."""
    from simple_scaling_laws import fit  # pyright: ignore[reportMissingImports]

    model = fit(frame, n_draws=RESAMPLES, seed=0)
    draws, fitted = np.asarray(model.draws[TARGET].params), model.params(TARGET)
    low, high = (dict(zip(DRAWN, ends, strict=True)) for ends in np.quantile(draws, (0.025, 0.975), axis=0))
    assert all(low[name] < fitted[name] + 0.1 and high[name] > fitted[name] - 0.1 for name in COMPARED), "other columns"
    return {name: (float(low[name]), float(high[name])) for name in COMPARED}


def ours(frame: Any) -> Held:
    """Our 95 % intervals of the same table, a row for each run."""
    rows = {row["training_run_id"]: row for row in frame.to_dicts()}.values()
    n = np.array([row["model_size__n_params"] for row in rows])
    d = np.array([row["dataset_size__n_subjects"] for row in rows])
    score = np.array([row[TARGET] for row in rows])
    found = fit_surface(SurfaceData(n, d, score, ("",) * len(n)), resamples=RESAMPLES, hold_back=False)
    return {name: (getattr(found, name).low, getattr(found, name).high) for name in COMPARED}


def main() -> None:
    """Compare, print and write."""
    from simple_scaling_laws.simulate import simulate_runs  # pyright: ignore[reportMissingImports]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=40)
    tables = parser.parse_args().tables
    ways: dict[str, Callable[[Any], Held]] = {"ours": ours, "simple-scaling-laws 0.2.0": theirs}
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {tables} tables, {RESAMPLES} resamples, processor seconds a table.", ""]
    lines += ["| runs | tool | E held, width | alpha held, width | beta held, width | s |", "|---|---|---|---|---|---|"]
    for runs in (2, 4):
        for name, way in ways.items():
            begun, found = time.process_time(), list[Held]()
            for seed in range(tables):
                options = {"run_sd": 0.01, "evaluations_per_run": 1, "runs_per_config": runs, "seed": seed}
                found.append(way(simulate_runs({TARGET: TRUTH}, **options)))
            seconds = (time.process_time() - begun) / tables
            cells = []
            for what in COMPARED:
                held = np.mean([each[what][0] <= TRUTH[what] <= each[what][1] for each in found])
                width = np.median([each[what][1] - each[what][0] for each in found])
                cells.append(f"{held:.0%}, {width:.3g}")
            lines.append(f"| {9 * runs} | {name} | {' | '.join(cells)} | {seconds:.2f} |")
            print(lines[-1], flush=True)
    write_text_atomic(RESULT, "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
