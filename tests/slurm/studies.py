"""Studies on the tests' cluster: their commands, and what their jobs do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from scaling.run.home import StudyFolder
from slurm.attempts import starts
from slurm.client import Client, clean_environment
from slurm.states import Condition, conditions
from slurm.submissions import Submissions
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOT, until


def cluster_file(folder: Path, **keys: object) -> Path:
    """A cluster file for it, in a folder."""
    path = folder / "cluster.yaml"
    content = {"gpus": False, "devices_per_node": 2, "memory_gb": 1, "minutes": 10, "signal_seconds": 30, **keys}
    path.write_text(json.dumps(content))
    return path


def program(*arguments: object, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """`trigscale` as a user calls it."""
    command = [sys.executable, "-m", "scaling", *map(str, arguments)]
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


class Watched:
    """The jobs of a study that was submitted, by method."""

    def __init__(self, cluster: Cluster, study: Path) -> None:
        self.cluster, self.folder = cluster, StudyFolder(study)
        self.submissions = Submissions(study / "slurm")
        self.client = Client(clean_environment((), cluster.environment))

    def states(self) -> dict[str, str]:
        """In a word each, once all have ended."""
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(conditions(self.submissions, self.client, self.submissions.places()))
            return not any(condition.active for condition in found.values())

        until(over, lambda: f"{found}")
        return {name.partition("-")[0]: condition.state.value for name, condition in found.items()}

    def home(self, method: str) -> Path:
        """The folder of its run."""
        (found,) = (home.path for home in self.folder.homes() if home.name.startswith(f"{method}-"))
        return found

    def id(self, method: str) -> str:
        """SLURM's number of it."""
        return self.submissions.places()[self.home(method).name].id

    def condition(self, method: str) -> Condition:
        """What is known of it now."""
        return conditions(self.submissions, self.client, self.submissions.places())[self.home(method).name]

    def starts(self, method: str) -> int:
        """How often it was started."""
        return len(starts(self.submissions.attempts(self.home(method).name)))

    def step(self, method: str) -> int:
        """Steps that it has logged."""
        log = self.home(method) / "metrics.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def reaches(self, method: str, step: int) -> None:
        """Wait until it has logged so many."""
        until(lambda: self.step(method) >= step, lambda: f"{method} at {step}")

    def workers(self, method: str) -> list[int]:
        """The processes that train it, on whatever node of this machine."""
        ours = ("scaling.work.worker", str(self.home(method)))
        commands = {path.parent.name: _command(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
        return [int(pid) for pid, words in commands.items() if words[-2:] == ours]


def _command(path: Path) -> tuple[str, ...]:
    """What a process was started as; that of the task beside it names the same run, and is another program."""
    try:
        words = path.read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return ()
    return () if "slurm.task" in words or "srun" in words else tuple(words)
