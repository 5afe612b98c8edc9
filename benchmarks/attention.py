"""What does attention with its JVP cost, beside the alternatives?

    python benchmarks/attention.py [--minutes M]

Everything for a shape is timed side by side, interleaved, and the median counts. On a GPU: bfloat16, some float16, the
U-Net's shapes and long ones, five minutes. On a CPU: float32, with one thread and with all, four minutes. TFLOP/s count
12 Nq Nk D operations for value and JVP, 4 for the value. Memory is the peak above inputs and outputs. Prints a table of
the main ratios and writes every number to benchmarks/results/attention-DEVICE.json, the table beside it. Needs torch,
and triton on a GPU; jvp_flash_attention takes part where it is installed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from attention_contestants import OPERATIONS, PEER, Shape, contestants, cpu_shapes, draw, gpu_shapes

RESULTS = Path(__file__).parent / "results"
SECONDS = {"cuda": 1.0, "cpu": 5.0}  # of timing a shape
ROUNDS = 5, 60  # at least, at most


class Clock:
    """Seconds of one call; on a GPU between events, with the level-2 cache cleared and the queue filled before."""

    def __init__(self, device: str) -> None:
        self.gpu = device == "cuda"
        self.flush = torch.empty(2**28 if self.gpu else 0, dtype=torch.int8, device=device)

    def __call__(self, call: Callable[[], Any]) -> float:
        if not self.gpu:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        torch.cuda._sleep(1_000_000)  # cycles: the call is launched meanwhile, so that launching is not timed
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def launch(self, call: Callable[[], Any]) -> float:
        """Seconds until the call returns, its work on the GPU perhaps still to do."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def measure(shape: Shape, device: str, clock: Clock) -> list[dict[str, Any]]:
    """One record a contestant: seconds, TFLOP/s and memory, or why there are none."""
    x = draw(shape, device)
    records, calls, ours = [], {}, None
    for name, computes, make in contestants(device, shape):
        record: dict[str, Any] = {"contestant": name, "computes": computes}
        records.append(record)
        try:
            call = make(x)
            result = call()
            if clock.gpu:
                record["peak_bytes"] = gpu_peak(call)
        except Exception as error:  # recorded, and for ours the end is an error: one failure must not cost the rest
            record["refused"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        if computes == "jvp" and name != "ours, channels first":
            ours = result[1] if ours is None else ours
            record["difference"] = float((result[1].float() - ours.float()).norm() / ours.float().norm())
        calls[name] = call
    operations = shape.batch * shape.heads * shape.length**2 * shape.width
    seconds = rounds(calls, clock)
    for record in records:
        if (name := record["contestant"]) in calls:
            record["seconds"] = statistics.median(seconds[name])
            record["samples"] = len(seconds[name])
            record["tflops"] = OPERATIONS[record["computes"]] * operations / record["seconds"] / 1e12
            if clock.gpu:
                record["launch_seconds"] = statistics.median(clock.launch(calls[name]) for _ in range(5))
    return records


def rounds(calls: dict[str, Callable[[], Any]], clock: Clock) -> dict[str, list[float]]:
    """Each call in turn, again and again, for a fixed time."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + SECONDS["cuda" if clock.gpu else "cpu"]
    for i in range(ROUNDS[1]):
        if i >= ROUNDS[0] and time.perf_counter() > end:
            break
        for name, call in calls.items():
            samples[name].append(clock(call))
    return samples


def gpu_peak(call: Callable[[], Any]) -> int:
    """Peak bytes above inputs and outputs."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - outputs_bytes(result)


def outputs_bytes(result: Any) -> int:
    return sum(y.nbytes for y in (result if isinstance(result, tuple) else (result,)))


def cpu_memory() -> list[dict[str, Any]]:
    """Peaks at lengths at which a square of logits stands out."""
    names, lengths = ("ours", "ours, with backward", "MATH under func.jvp"), (1024, 4096, 16384)
    return [{"contestant": n, "length": x, "peak_bytes": cpu_peak(n, x)} for n in names for x in lengths]


def cpu_peak(name: str, length: int) -> int:
    """Peak bytes above inputs and outputs of one head of width 64, from a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--length", str(length)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child_peak(name: str, length: int) -> int:
    """In that process: how far the call lifts the peak of resident memory above inputs and outputs that exist."""
    for n in (128, length):  # the first time for what libraries load and keep
        shape = Shape("memory", 1, 1, n, 64, torch.float32)
        x = draw(shape, "cpu")
        call = next(c.make(x) for c in contestants("cpu", shape) if c.name == name)
        outputs = [torch.ones_like(x[0]) for _ in range(3 if "backward" in name else 2)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        del outputs
        with torch.no_grad():
            call()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def ceilings(device: str, clock: Clock) -> dict[str, float]:
    """What the machine can do at best: bytes copied (read and written) and matrix products."""
    n, dtype = (8192, torch.bfloat16) if clock.gpu else (2048, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.empty(2**30 if clock.gpu else 2**28, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy, product = (lambda: target.copy_(source)), (lambda: a @ b)
    seconds = rounds({"copy": copy, "product": product}, clock)
    return {
        "copy_bytes_per_second": 2 * source.nbytes / statistics.median(seconds["copy"]),
        f"matmul_{n}_tflops": 2 * n**3 / statistics.median(seconds["product"]) / 1e12,
    }


def machine(device: str) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpus": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": import_module("triton").__version__ if find_spec("triton") else None,
        "cuda": torch.version.cuda,
    }


def cpu_name() -> str:
    """As Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else []
    return names[0] if names else platform.machine()


def run(device: str, minutes: float) -> dict[str, Any]:
    """All measurements; shapes for which no time was left are named."""
    deadline = time.monotonic() + 60 * minutes
    clock = Clock(device)
    threads = sorted({1, torch.get_num_threads()}) if device == "cpu" else [torch.get_num_threads()]
    result: dict[str, Any] = {"machine": machine(device), "ceilings": {}, "shapes": [], "no_time": []}
    # First: a process inherits the peak of the one that starts it.
    result["memory"] = [] if device == "cuda" else cpu_memory()
    for count in threads:
        torch.set_num_threads(count)
        result["ceilings"][f"{count} threads" if device == "cpu" else "gpu"] = ceilings(device, clock)
        for shape in gpu_shapes() if device == "cuda" else cpu_shapes():
            if time.monotonic() > deadline:
                result["no_time"].append({"threads": count, **shape.record()})
                continue
            records = measure(shape, device, clock)
            result["shapes"].append({**shape.record(), "threads": count, "contestants": records})
            print(row(result["shapes"][-1]), file=sys.stderr, flush=True)
    return result


HEADINGS = (
    "shape",
    "threads",
    "ours ms",
    "TFLOP/s",
    "R",
    "MATH/ours",
    "peer/ours",
    "tq alone",
    "forward",
    "step",
    "MiB",
)


def row(entry: dict[str, Any]) -> str:
    """A line of the table: R is ours by SDPA flash forward; the last four compare as `table` says."""
    found = {x["contestant"]: x for x in entry["contestants"]}
    ours = entry["contestants"][0]

    def ratio(a: str, b: str) -> str:
        if "seconds" in found[a] and "seconds" in found[b]:
            return f"{found[a]['seconds'] / found[b]['seconds']:.2f}"
        return next(found[x]["refused"] for x in (a, b) if "refused" in found[x]).split(": ")[-1][:30]

    name = f"{entry['name']} {entry['batch'] * entry['heads']}x{entry['length']}x{entry['width']} {entry['dtype']}"
    first = ours["contestant"]
    cells = [name, str(entry["threads"])]
    if "seconds" in ours:
        cells += [f"{1e3 * ours['seconds']:.3f}", f"{ours['tflops']:.3g}"]
    else:
        cells += [ours["refused"], ""]
    cells += [ratio(first, "SDPA flash"), ratio("MATH under func.jvp", first), ratio(PEER, first)]
    cells += [ratio("ours, tq alone", first), ratio("ours, forward", "SDPA flash")]
    cells += [ratio("ours, with backward", "SDPA flash, with backward")]
    cells += [f"{ours['peak_bytes'] / 2**20:.1f}" if "peak_bytes" in ours else ""]
    return "| " + " | ".join(cells) + " |"


def table(result: dict[str, Any]) -> str:
    """The main ratios as Markdown."""
    about = result["machine"]
    lines = [
        f"{about['device']}, {about['cpus']} CPUs, torch {about['torch']}, triton {about['triton']}, {about['date']}",
        "",
        "R: ours with JVP by SDPA flash's forward. MATH, peer: their JVP by ours. tq alone: without tk and tv, by all.",
        "forward: ours by SDPA flash. step: value, JVP and backward of ours by SDPA flash's forward and backward.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + " --- |" * len(HEADINGS),
        *map(row, result["shapes"]),
    ]
    for where, ceiling in result["ceilings"].items():
        lines += ["", f"Ceilings, {where}: " + ", ".join(f"{name} {value:.3g}" for name, value in ceiling.items())]
    if result["memory"]:
        lines += ["", "| peak MiB above inputs and outputs, one head of 64 | length | MiB |", "| --- | --- | --- |"]
        lines += [f"| {x['contestant']} | {x['length']} | {x['peak_bytes'] / 2**20:.1f} |" for x in result["memory"]]
    if result["no_time"]:
        lines += ["", f"No time was left for {len(result['no_time'])} shapes; see the file."]
    return "\n".join(lines) + "\n"


def failures(result: dict[str, Any]) -> list[str]:
    """What of ours refused a shape."""
    return [
        f"{entry['length']}x{entry['width']} {entry['dtype']}, {x['contestant']}: {x['refused']}"
        for entry in result["shapes"]
        for x in entry["contestants"]
        if x["contestant"].startswith("ours") and "refused" in x
    ]


def write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def main() -> None:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="start no further shape after that time")
    parser.add_argument("--cpu", action="store_true", help="measure the CPU though there is a GPU")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(child_peak(arguments.peak_of, arguments.length))
        return
    device = "cuda" if torch.cuda.is_available() and not arguments.cpu else "cpu"
    with torch.no_grad():
        result = run(device, arguments.minutes)
    slug = re.sub(r"[^a-z0-9]+", "-", result["machine"]["device"].lower()).strip("-") if device == "cuda" else "cpu"
    write(RESULTS / f"attention-{slug}.json", json.dumps(result, indent=1) + "\n")
    write(RESULTS / f"attention-{slug}.md", table(result))
    print(table(result))
    if failed := failures(result):
        raise SystemExit("ours failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
