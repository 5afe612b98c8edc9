"""What each job of a study asks of a cluster: from the plan, then the cluster file, then the study."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace

from scaling.config.cluster import Cluster, long_name
from scaling.config.sections import Launch
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.plan.accelerators import DEFAULT, get_accelerator
from scaling.plan.costs import cost
from scaling.plan.rate import assumed_rate
from scaling.run.spec import PlannedRun
from scaling.study.jobs import REPORT
from scaling.study.launch import ROOT
from scaling.work.local_copy import LOCAL_COPY
from slurm.resources import Request, Settings

ESTIMATE_MARGIN = 1.5  # the plan's rate is assumed
START_MINUTES = 15  # imports, reading, compiling
ROUND_MINUTES = 30  # runs that ask for the same time can share an array


def requests(config: StudyConfig, cluster: Cluster, runs: Sequence[PlannedRun]) -> dict[str, Request]:
    """By name of the job. ConfigError where a run's devices cannot be laid out on nodes."""
    nodes, tasks = layout(config.launch.devices, cluster.devices_per_node)
    base = Request(
        minutes=1,
        nodes=nodes,
        tasks_per_node=tasks,
        cpus_per_task=cluster.cpus_per_task or config.launch.threads,
        gpus_per_task=1 if cluster.gpus else 0,
        memory_mb=cluster.memory_gb * 1024 if cluster.memory_gb else None,
        options=_options(cluster),
    )
    found = {run.name: replace(base, minutes=_minutes(config, cluster, run)) for run in runs}
    alone = replace(base, minutes=cluster.report_minutes, nodes=1, tasks_per_node=1, gpus_per_task=0)
    return {**found, REPORT: alone}


def layout(devices: int, per_node: int) -> tuple[int, int]:
    """Nodes, and devices on each, all alike. ConfigError where that cannot be."""
    nodes = math.ceil(devices / per_node)
    if devices % nodes:
        raise ConfigError(
            f"launch.devices: {devices} over nodes of {per_node} (devices_per_node of the cluster file) leaves a node "
            f"with fewer: set a multiple of {per_node}"
        )
    return nodes, devices // nodes


def device_hours(config: StudyConfig, run: PlannedRun) -> float:
    """What the plan says that the run takes, over all its devices."""
    accelerator = get_accelerator(config.launch.accelerator or DEFAULT)
    rate = assumed_rate(accelerator, config.precision, None)
    return rate.hours(cost(run.spec, checkpointing=config.launch.activation_checkpointing).flops)


def settings(cluster: Cluster, launch: Launch) -> Settings:
    """How jobs run there."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(launch.threads))
    local = {LOCAL_COPY: cluster.local_copy} if cluster.local_copy else {}
    return Settings(
        setup=(*(f"module load {shlex.join(module.split())}" for module in cluster.modules), *cluster.setup),
        container=cluster.container,
        container_python=cluster.container_python,
        environment={**threads, **local, **cluster.environment},
        passed=cluster.pass_environment,
        signal_seconds=cluster.signal_seconds,
        parallel=cluster.parallel,
        python_path=str(ROOT),
    )


def _minutes(config: StudyConfig, cluster: Cluster, run: PlannedRun) -> int:
    if cluster.minutes is not None:
        return cluster.minutes
    wall = 60 * device_hours(config, run) / config.launch.devices
    rounded = math.ceil((wall * ESTIMATE_MARGIN + START_MINUTES) / ROUND_MINUTES) * ROUND_MINUTES
    return min(rounded, cluster.max_minutes)


def _options(cluster: Cluster) -> tuple[tuple[str, str | int | bool], ...]:
    named = {key: getattr(cluster, key) for key in ("partition", "account", "qos", "constraint")}
    options: dict[str, str | int | bool] = {key: value for key, value in named.items() if value is not None}
    named = {long_name(key): value for key, value in cluster.sbatch.items()}
    options |= {key: value for key, value in named.items() if value is not False}  # a switch that is off is left out
    return tuple(sorted(options.items()))
