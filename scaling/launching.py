"""How the runs of a study are put on this machine: processes, devices, threads, and the strategy of each."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from models.family import Family
from scaling.config.sections import Launch
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.plan.devices import check_devices, strategy_of
from scaling.training.parallel import check_strategy
from scaling.training.profile import check_profile
from scaling.training.trackers import check_trackers

ROOT = Path(__file__).resolve().parents[1]


def launch_of(config: StudyConfig, family: Family, size: str) -> Launch:
    """How runs of one size are launched: with the strategy that its family names, unless the study names one."""
    strategy = strategy_of(config.launch.strategy, family, size, config.launch.devices)
    return config.launch.model_copy(update={"strategy": strategy})


def check_launch(config: StudyConfig, family: Family, device: torch.device) -> None:
    """ConfigError or ParallelError where a run could not be spread over its devices, or watched, as asked."""
    launch = config.launch
    if device.type == "cuda" and launch.devices > torch.cuda.device_count():
        raise ConfigError(
            f"launch.devices: {launch.devices}, but torch sees {torch.cuda.device_count()} GPUs: set that or fewer"
        )
    check_profile(launch, device)
    check_trackers(launch)
    longest = max(config.recipe(method, size).steps for size in config.sizes for method in config.methods)
    if launch.profile is not None and launch.profile[1] > longest:
        raise ConfigError(
            f"launch.profile: {list(launch.profile)} ends after the last step of every run, {longest} at most: "
            "name steps that there are"
        )
    for size in config.sizes:
        check_strategy(launch_of(config, family, size), launch.devices)
        for method in config.methods:
            batch = config.recipe(method, size).batch
            check_devices(f"{method}-{size}", batch, launch.devices, launch.microbatch)


def workers(config: StudyConfig, device: str) -> int:
    """How many runs at once: launch.workers, else one on GPUs, else as many as the cores hold."""
    launch = config.launch
    if launch.workers:
        return launch.workers
    return 1 if device == "cuda" else max(1, len(os.sched_getaffinity(0)) // (launch.threads * launch.devices))


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: ours, with the threads of all libraries bounded and this checkout importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    bounds = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **bounds, "PYTHONPATH": path}
