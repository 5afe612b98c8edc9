"""How fast one device trains: at an assumed share of its peak, or as fast as a run of this toolkit was seen to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config.validation import ConfigError
from scaling.plan.accelerators import Accelerator
from scaling.plan.costs import cost
from scaling.run.home import RunHome
from scaling.run.metrics import read_metrics
from scaling.run.spec import load_run


@dataclass(frozen=True)
class Rate:
    """FLOP/s of one device. utilisation: its share of the peak; source: where that comes from."""

    flops_per_second: float
    utilisation: float
    source: str

    def hours(self, flops: float) -> float:
        """Device-hours of so much work."""
        return flops / self.flops_per_second / 3600


def assumed_rate(accelerator: Accelerator, precision: str, utilisation: float | None) -> Rate:
    """A share of the peak, the accelerator's usual one unless given. ConfigError unless it lies in (0, 1]."""
    share = accelerator.utilisation if utilisation is None else utilisation
    if not 0 < share <= 1:
        raise ConfigError(f"--utilisation {share}: give the share of the peak that is reached, above 0 and at most 1")
    return Rate(accelerator.peak_flops[precision] * share, share, "assumed")


def measured_rate(accelerator: Accelerator, precision: str, path: Path) -> Rate:
    """What the run at `path` (its folder, or its metrics.jsonl) reached: images a second times FLOPs an image.

    The median over the lines of metrics.jsonl but the first, which holds the start; per device of the run. Raises
    ConfigError where there is no such run, where it is too short, and where it was faster than the accelerator's peak.
    """
    home = RunHome(path if path.is_dir() else path.parent)
    if not home.config.exists():
        raise ConfigError(f"--measured {path}: is no run: name the folder of a run, or the metrics.jsonl in it")
    run = load_run(home.path)
    work = cost(run.spec, checkpointing=run.launch.activation_checkpointing)
    speed = _images_per_second(home.metrics if path.is_dir() else path) / run.launch.devices
    flops = speed * work.train_flops / work.images
    peak = accelerator.peak_flops[precision]
    if flops > peak:
        raise ConfigError(
            f"--measured {path}: {flops:.3g} FLOP/s a device is above the peak of {accelerator.name}, {peak:.3g}: name "
            "the accelerator of that run with --accelerator"
        )
    return Rate(flops, flops / peak, f"measured in {run.spec.name()}")


def measured_speed(path: Path) -> tuple[float, int]:
    """Images a second, the median over the lines of metrics.jsonl but the first, and the most memory in bytes.

    ConfigError where the file is no metrics.jsonl, or has one line alone.
    """
    return _images_per_second(path), max(int(line.get("memory_bytes") or 0) for line in read_metrics(path).lines)


def _images_per_second(path: Path) -> float:
    if not path.exists():
        raise ConfigError(f"--measured: {path}: no such file: name a run's folder or its metrics.jsonl")
    lines, damaged = read_metrics(path)
    if damaged and not lines:
        raise ConfigError(f"--measured: {path}: is not the metrics.jsonl of a run: not one of {damaged} lines is")
    speeds = [_speed(path, line) for line in lines[1:]]
    if not speeds or (median := statistics.median(speeds)) <= 0:
        raise ConfigError(f"--measured: {path}: needs two lines at least with images_per_second: train longer")
    return median


def _speed(path: Path, line: Any) -> float:
    try:
        return float(line["images_per_second"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--measured: {path}: a line has no images_per_second: not a metrics.jsonl") from error
