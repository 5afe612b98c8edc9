"""What a study was run with: versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from scaling.config.study import StudyConfig
from scaling.data.sources import Prepared
from scaling.run.schemas import Environment

OPTIONAL = ("triton", "deepspeed", "submitit")
PACKAGES = ("torch", "numpy", "scipy", "pydantic", "safetensors", "webdataset", "matplotlib")


def describe_launch(
    before: Environment, config: StudyConfig, prepared: Prepared, device: torch.device, command: str
) -> Environment:
    """What environment.json held before, with the facts of this launch; the start of the first launch stays."""
    facts = {
        "study": config.name,
        "started": before.started or datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "versions": versions(),
        "machine": machine(device),
        "seeds": config.seeds,
        "data": {"dataset": config.data.source, **prepared.data.model_dump()},
    }
    return before.model_copy(update=facts)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, and the device that computes."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """The commit of the checkout this code lies in, with "+changes" where files differ; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return head and head + ("+changes" if _git(root, "status", "--porcelain") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def diagnose() -> dict[str, Any]:
    """Versions, machine, commit, and which optional packages are there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    optional = {name: "found" if importlib.util.find_spec(name) else "not installed" for name in OPTIONAL}
    return {**versions(), **machine(device), "commit": commit(), **optional}
