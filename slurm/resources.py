"""What a job asks of a cluster, and how jobs are put on one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """What jobs that are alike ask for. A task is one process of the job, a rank.

    minutes: of one start; a job that needs longer is started again. memory_mb: of a node. options: what else sbatch
    takes, by the long names of its options; True for those without a value.
    """

    minutes: int
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_task: int = 0
    memory_mb: int | None = None
    options: tuple[tuple[str, str | int | bool], ...] = ()

    @property
    def tasks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of the job."""
        return self.tasks * self.gpus_per_task

    def words(self) -> str:
        """In one line for people."""
        parts = [f"{self.nodes} node{'s' if self.nodes > 1 else ''} x {self.tasks_per_node} tasks"]
        parts += [f"{self.gpus_per_task} GPU a task"] if self.gpus_per_task else []
        parts += [f"{self.cpus_per_task} CPUs a task"] if self.cpus_per_task else []
        parts += [f"{self.memory_mb} MB a node"] if self.memory_mb else []
        return ", ".join([*parts, f"{self.minutes} min"])


@dataclass(frozen=True)
class Settings:
    """How jobs run on one cluster.

    setup: lines of bash before the program. container: words in front of a job's command, whose own first word is then
    container_python. environment: values that jobs get. passed: names whose values jobs get from the environment of
    whoever submits. signal_seconds: how long before its time limit a job is told. parallel: elements of one array that
    may run at once, 0: all. python_path: where jobs import from.
    """

    setup: tuple[str, ...] = ()
    container: tuple[str, ...] = ()
    container_python: str = "python3"
    environment: Mapping[str, str] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    signal_seconds: int = 120
    parallel: int = 0
    python_path: str = ""
