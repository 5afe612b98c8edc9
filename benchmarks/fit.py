"""What does fitting cost: bootstrap refits beside the loops that people run, the command, and a long table.

    PYTHONPATH=. python benchmarks/fit.py [--loops 60]

4,000 bootstrap refits of E + A/N^alpha + B/D^beta on 240 rows, whose law and noise are those of the published
Chinchilla fit (CHINCHILLA_CSV names Epoch AI's table, to use that), against scipy's L-BFGS-B from the same start, with
the analytic gradient and with a numeric one, over `--loops` of the same resamples in the same run; their time is
carried to 4,000. All times are of the processor, one thread. Prints a table and writes benchmarks/results/fit-cpu.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from data_pipeline.files import write_text_atomic
from scaling.analysis.gather import drop, gather
from scaling.analysis.newton import DELTA, minimise
from scaling.analysis.surface import SurfaceData, best_fit, surface_data
from scaling.analysis.uncertainty import FloatArray, stream

RESULT = Path(__file__).parent / "results" / "fit-cpu.md"
REFITS, ROWS = 4000, 240
TIGHT = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000, "maxfun": 50000}
SCALE = 1e4  # the objective is small, and scipy's tolerances are not
LONG = 100_000
IMPORTS = "import numpy, scipy.optimize, rich"


def table() -> tuple[SurfaceData, str]:
    """The rows, and where they are from."""
    named = os.environ.get("CHINCHILLA_CSV")
    if named:
        return surface_data(drop(gather([named], ["parameters=Model Size"]), 5)), "Epoch AI's table"
    random = np.random.default_rng(0)
    n = np.exp(random.uniform(np.log(5e7), np.log(1.6e10), ROWS))
    d = np.exp(random.uniform(np.log(1e9), np.log(1.5e11), ROWS))
    noise = 0.005 * random.standard_t(3, ROWS)
    score = (1.817 + 477.8 * n**-0.347 + 2143.0 * d**-0.367) * np.exp(noise)
    return SurfaceData(n, d, score, ("",) * ROWS), "made-up rows of the published law"


def refits(data: SurfaceData, loops: int) -> tuple[dict[str, float], float, float]:
    """Processor seconds of 4,000 refits each way, and by how much our losses lie above the loops' at most."""
    theta, _ = best_fit(data)
    rows, count = data.rows(), len(data.n)
    counts = stream(0, "surface", count).multinomial(count, np.full(count, 1 / count), size=REFITS).astype(float)
    starts = np.broadcast_to(theta, (REFITS, 5)).copy()
    begun = time.process_time()
    _, ours = minimise(rows, starts, counts)
    seconds = {"ours, all at once": time.process_time() - begun}

    def terms(x: FloatArray, w: FloatArray) -> tuple[float, tuple[FloatArray, ...]]:
        """The loss, as short as numpy allows, and what its gradient needs."""
        first, second, third = np.exp(x[0] - x[1] * rows.n), np.exp(x[2] - x[3] * rows.d), np.exp(x[4])
        total = first + second + third
        residual = np.log(total) - rows.y
        psi = residual.clip(-DELTA, DELTA)
        return SCALE * float(w @ (psi * (residual - psi / 2))), (first, second, third, w * psi / total)

    def with_gradient(x: FloatArray, w: FloatArray) -> tuple[float, FloatArray]:
        value, (first, second, third, pull) = terms(x, w)
        in_n, in_d = pull * first, pull * second
        gradient = [in_n.sum(), -(in_n @ rows.n), in_d.sum(), -(in_d @ rows.d), third * pull.sum()]
        return value, SCALE * np.array(gradient)

    def value_alone(x: FloatArray, w: FloatArray) -> float:
        return terms(x, w)[0]

    above = [0.0, 0.0]
    ways = (
        ("L-BFGS-B, analytic gradient, warm start", with_gradient, True),
        ("L-BFGS-B, numeric gradient", value_alone, None),
    )
    for index, (name, function, jacobian) in enumerate(ways):
        begun = time.process_time()
        for w, loss in zip(counts[:loops], ours, strict=False):
            found = minimize(function, theta, (w,), jac=jacobian, method="L-BFGS-B", options=TIGHT)
            above[index] = max(above[index], float(loss) - found.fun / SCALE)
        seconds[name] = (time.process_time() - begun) * REFITS / loops
    return seconds, above[0], above[1]


def process(command: Sequence[str]) -> tuple[float, float]:
    """Processor seconds and MiB at most of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def long_table(folder: Path) -> Path:
    """100,000 rows: five sizes, four curves, 5,000 seeds."""
    random = np.random.default_rng(0)
    lines = ["method,steps,nfe,size,macs,fd,seed"]
    macs = np.geomspace(1e9, 1e11, 5)
    for method, steps in (("teacher", 32), ("scd", 1), ("scd", 2), ("sct", 1)):
        for i, cost in enumerate(macs):
            scores = 3 * (cost / 1e9) ** -0.2 * np.exp(0.05 * random.standard_normal(LONG // 20))
            lines += [f"{method},{steps},{steps},s{i},{cost:.6g},{fd:.6g},{seed}" for seed, fd in enumerate(scores)]
    path = folder / "long.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def many_sizes(folder: Path) -> Path:
    """100,000 rows of as many sizes."""
    random = np.random.default_rng(0)
    macs = np.exp(random.uniform(np.log(1e9), np.log(1e12), LONG))
    scores = (1 + 3 * (macs / 1e9) ** -0.3) * np.exp(0.05 * random.standard_normal(LONG))
    path = folder / "sizes.csv"
    path.write_text("macs,fd\n" + "".join(f"{cost:.12g},{fd:.6g}\n" for cost, fd in zip(macs, scores, strict=True)))
    return path


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data, source = table()
    seconds, analytic, numeric = refits(data, options.loops)
    lines = [f"{REFITS:,} refits on {len(data.n)} rows ({source}); loops timed over {options.loops}:", ""]
    lines += ["| way | processor s | times ours |", "|---|---|---|"]
    ours = next(iter(seconds.values()))
    lines += [f"| {name} | {each:.2f} | {each / ours:.0f} |" for name, each in seconds.items()]
    lines += [
        "",
        f"Our loss is above that of the loops by {max(analytic, 0):.1e} and {max(numeric, 0):.1e} at most.",
        "",
    ]
    program = str(Path(sys.executable).with_name("trigscale"))
    fit, base = [], []
    for _ in range(options.rounds):  # in turns
        fit.append(process([program, "fit", "published/scm-imagenet512.csv"])[0])
        base.append(process([sys.executable, "-c", IMPORTS])[0])
    lines += [
        f"`trigscale fit published/scm-imagenet512.csv`, whole process: {min(fit):.2f} s; `{IMPORTS}`: "
        f"{min(base):.2f} s; quotient {min(fit) / min(base):.2f} (least of {options.rounds} in turns).",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("20 points", long_table(Path(folder))), ("as many sizes", many_sizes(Path(folder)))):
            (taken, memory), (as_json, more) = (process([program, "fit", str(path), *how]) for how in ([], ["--json"]))
            told = f"{taken:.1f} s, {memory:.0f} MiB; all points as JSON: {as_json:.1f} s, {more:.0f} MiB."
            lines += [f"A table of {LONG:,} rows, {name}: {told}", ""]
    head = f"{datetime.now(UTC):%Y-%m-%d}, numpy {np.__version__}, load {os.getloadavg()[0]:.1f}, one thread."
    text = "\n".join([head, "", *lines])
    print(text)
    write_text_atomic(RESULT, text)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    main()
