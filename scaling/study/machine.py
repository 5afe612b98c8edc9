"""What a study was run with: versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from scaling.config.study import StudyConfig
from scaling.data.sources import Prepared
from scaling.evaluation.spaces.dinov2 import find_dinov2
from scaling.evaluation.spaces.inception import find_inception
from scaling.evaluation.spaces.space import SpaceError
from scaling.run.devices import any_device
from scaling.run.schemas import Environment

# Packages that are not always there: what each is for, and the extra of trigscale that installs it.
OPTIONAL = {
    "triton": ("attention kernels on GPUs; on CPUs nothing needs it", "gpu"),
    "diffusers": ("VAEs: data encode, and samples of their latents", "vae"),
    "deepspeed": ("launch.strategy zero1, zero2 and zero3", "deepspeed"),
    "submitit": ("study submit, which puts a study on a SLURM cluster", "slurm"),
    "tensorboard": ("launch.tensorboard", "tensorboard"),
    "wandb": ("launch.wandb", "wandb"),
    "transformers": ("metrics ...-dinov2", "dinov2"),
    "onnx": ("export to FILE.onnx", "onnx"),
    "huggingface_hub": ("release push", "hub"),
}
PACKAGES = ("trigscale", "torch", "numpy", "scipy", "pydantic", "safetensors", "webdataset", "matplotlib")


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
        "data": {"dataset": config.data.source, **prepared.data.model_dump(exclude={"definition", "window"})},
    }
    return before.model_copy(update=facts)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {name: _version(name) or "not installed" for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    """The commit of the checkout this code lies in, with "+changes" where files differ.

    Outside a checkout the commit that pip installed from, where it was one (PEP 610); else None.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return _installed_commit()
    head = _git(root, "rev-parse", "HEAD")
    return head and head + ("+changes" if _git(root, "status", "--porcelain") else "")


def _installed_commit() -> str | None:
    try:
        origin = importlib.metadata.distribution("trigscale").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # a copy of the files
        return None
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def diagnose() -> dict[str, Any]:
    """Versions, machine, commit, and of each optional package what it is for, its version, and how to install it."""
    device = any_device()
    optional = {
        name: {"for": purpose, "found": _version(name), "install": f"pip install 'trigscale[{extra}]'"}
        for name, (purpose, extra) in OPTIONAL.items()
    }
    return {**versions(), **machine(device), "commit": commit(), "optional": optional, "networks": networks()}


def networks() -> dict[str, dict[str, str | None]]:
    """The networks whose features judge and that are not ours to ship: where each was found, or how to get it."""
    found: dict[str, dict[str, str | None]] = {}
    for name, find, purpose in (
        ("Inception", lambda: find_inception(None), "fid, kid, is, precision, recall, density, coverage"),
        ("DINOv2", lambda: find_dinov2(None), "metrics ...-dinov2"),
    ):
        try:
            found[name] = {"for": purpose, "found": str(find()), "get": None}
        except SpaceError as error:
            found[name] = {"for": purpose, "found": None, "get": str(error)}
    return found
