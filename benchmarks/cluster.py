"""What does it cost to put a thousand runs on SLURM, to ask how they are, and to start a job on one machine?

    PYTHONPATH=. python benchmarks/cluster.py [--json FILE]

On a cluster of its own (tests/slurm/cluster.py), whose jobs are held, so that nothing but the calls is timed. The ways
take turns, ROUNDS times; of each the median is shown. It is not slurm.py: that would hide our package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from rich.console import Console
from rich.table import Table

from slurm.client import Client, clean_environment
from slurm.graph import Job, JobGraph
from slurm.local import run_local
from slurm.resources import Request, Settings
from slurm.states import conditions
from slurm.submissions import Submissions
from slurm.submit import Order, cancel, submit
from tests.slurm.cluster import Cluster

ROUNDS = 3
SEEDS, SIZES = 84, ("s", "m", "l", "xl")  # teacher, sCD and sCT of each: 1,008 runs
LOOP = 100  # calls of sbatch in a loop, a tenth of the runs: the figure shown is for all
LOCAL_JOBS = 10
HELD = (("hold", True),)


def runs(folder: Path) -> JobGraph:
    """Teachers and students of SEEDS seeds and SIZES sizes, and the report after all."""
    jobs: list[Job] = []
    for size in SIZES:
        for seed in range(SEEDS):
            teacher = f"teacher-{size}-{seed}"
            jobs.append(Job(teacher, ("true",), folder / "log", kind=f"teacher-{size}"))
            for method in ("scd", "sct"):
                name = f"{method}-{size}-{seed}"
                jobs.append(Job(name, ("true",), folder / "log", (teacher,), kind=f"{method}-{size}"))
    return JobGraph([*jobs, Job("report", ("true",), folder / "log", after=tuple(job.name for job in jobs))])


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of a call."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def processor(call: Callable[[], Any]) -> float:
    """Seconds of this process and its children on a processor, which another load of the machine leaves alone."""

    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    begun = spent()
    call()
    return spent() - begun


def ours(cluster: Cluster, folder: Path, found: dict[str, list[float]]) -> None:
    """Submit the graph and ask for its state; note times and calls."""
    client, submissions = Client(clean_environment((), cluster.environment)), Submissions(folder / "slurm")
    graph = runs(folder)
    requests = dict.fromkeys(graph.jobs, Request(minutes=10, cpus_per_task=1, options=HELD))
    order = Order("bench", graph, requests, Settings(python_path="."))
    found["trigscale: submit"].append(seconds(lambda: submit(order, submissions, client, retry_failed=False)))
    found["sbatch calls"].append(client.calls["sbatch"])
    asking = Client(client.environment)
    places = submissions.places()
    found["trigscale: status"].append(seconds(lambda: conditions(submissions, asking, places)))
    found["status calls"].append(sum(asking.calls.values()))
    cancel(submissions, client)


def map_array(folder: Path, found: dict[str, list[float]]) -> None:
    """As many jobs as one array takes, with submitit, in one call; it knows no graph."""
    executor = submitit.AutoExecutor(folder)
    executor.update_parameters(timeout_min=10, slurm_additional_parameters={"hold": True})
    made: list[Any] = []
    found["submitit: map_array"].append(seconds(lambda: made.extend(executor.map_array(abs, range(1000)))))
    subprocess.run(["scancel", made[0].job_id.partition("_")[0]], check=True)


def loop(folder: Path, found: dict[str, list[float]]) -> None:
    """One call of sbatch a job."""
    folder.mkdir()
    script = folder / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    text = f"for i in $(seq {LOOP}); do sbatch --parsable --hold -t 10 {script}; done"
    made: list[str] = []

    def call() -> None:
        out = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True, cwd=folder).stdout
        made.extend(out.split())

    found["sbatch in a loop"].append(seconds(call) * 1000 / LOOP)
    subprocess.run(["scancel", *made], check=True)


def local(folder: Path, found: dict[str, list[float]]) -> None:
    """One job after the other on this machine, each a Python that does nothing: here and with submitit."""
    command = (sys.executable, "-S", "-c", "pass")
    graph = JobGraph([Job(str(number), command, folder / "log") for number in range(LOCAL_JOBS)])
    executor = submitit.LocalExecutor(folder / "submitit")

    def with_submitit() -> None:
        for _ in range(LOCAL_JOBS):
            executor.submit(abs, 1).result()

    def with_ours() -> None:
        run_local(graph, workers=1, environment=os.environ, on_event=lambda event: None)

    for name, call in (("trigscale", with_ours), ("submitit", with_submitit)):
        wall: list[float] = []
        used = processor(lambda call=call, wall=wall: wall.append(seconds(call)))
        found[f"{name}: a local job, wall"].append(wall[0] / LOCAL_JOBS)
        found[f"{name}: a local job, processor"].append(used / LOCAL_JOBS)


def measure() -> dict[str, Any]:
    """All of it, in turns."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="trigscale-bench-") as name:
        folder = Path(name)
        cluster = Cluster(folder / "c", 25000)
        cluster.start()
        try:
            os.environ.update({key: cluster.environment[key] for key in ("SLURM_CONF", "PATH")})
            for number in range(ROUNDS):
                ours(cluster, folder / f"ours-{number}", found)
                map_array(folder / f"submitit-{number}", found)
                loop(folder / f"loop-{number}", found)
                (folder / f"local-{number}").mkdir()
                local(folder / f"local-{number}", found)
        finally:
            cluster.stop()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "submitit": submitit.__version__,
        "runs": 3 * SEEDS * len(SIZES),
        "rounds": ROUNDS,
        "median": {name: statistics.median(values) for name, values in found.items()},
        "all": found,
    }


NAMES = (
    *("trigscale: submit", "submitit: map_array", "sbatch in a loop", "sbatch calls", "trigscale: status"),
    *("status calls", "trigscale: a local job, wall", "submitit: a local job, wall"),
    *("trigscale: a local job, processor", "submitit: a local job, processor"),
)


def main() -> None:
    """Print the table and, if asked, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    result = measure()
    table = Table(title=f"{result['runs']} runs, median of {ROUNDS}, {result['machine']}, {result['date']}")
    table.add_column("what")
    table.add_column("seconds, or number", justify="right")
    for name, value in result["median"].items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
