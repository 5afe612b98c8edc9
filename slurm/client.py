"""SLURM's programs, called with an environment that is known and errors that say what to change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

# What a job needs of the login environment; everything else, secrets included, stays behind. No SLURM_ variable but
# SLURM_CONF: submitted from inside a job, the new one would take itself for an element of that job's array.
ALLOWED = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_[A-Z]+|TZ|TMPDIR|SLURM_CONF|LD_LIBRARY_PATH|VIRTUAL_ENV|CUDA_HOME"
    "|MODULEPATH|MODULESHOME|MODULEPATH_ROOT|LOADEDMODULES|_LMFILES_|LMOD_[A-Z_]+|BASH_ENV|BASH_FUNC_.*"
    "|(NCCL|GLOO|TORCH_NCCL|UCX|FI)_[A-Z0-9_]+"
)
TIMEOUT_SECONDS = 60.0
REMEDIES = (
    ("invalid partition", "set `partition` of the cluster file to one that `sinfo -s` lists"),
    ("invalid account", "set `account` of the cluster file to one of `sacctmgr show assoc user=$USER`"),
    ("invalid qos", "set `qos` of the cluster file to one of `sacctmgr show assoc user=$USER format=qos`"),
    ("requested time limit", "set `minutes` of the cluster file to less; longer runs continue in another start"),
    ("time limit", "set `minutes` of the cluster file to less; longer runs continue in another start"),
    ("node count specification", "ask for fewer devices (launch.devices), or another `partition`"),
    ("requested node configuration is not available", "lower gpus_per_node, cpus_per_task, memory_gb or constraint"),
    ("invalid feature", "set `constraint` of the cluster file to a feature that `sinfo -o %f` lists"),
    ("policy", "a limit of yours or of the QOS is reached (`sacctmgr show assoc user=$USER`): wait, or ask for less"),
    ("rewound credential", "the clock of this machine is ahead of the controller's: have it set (NTP)"),
    ("expired credential", "the clock of this machine is behind the controller's: have it set (NTP)"),
    ("zero bytes were transmitted", "munge does not answer for this machine: is munged running, and its clock right?"),
    ("unable to contact slurm controller", "the controller is down: try again later; nothing was lost"),
    ("unrecognized option", "sbatch knows no such option: mend `sbatch` in the cluster file"),
)


class SlurmError(RuntimeError):
    """SLURM refused, or could not be asked; the message has its own words and what to change."""


def clean_environment(passed: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of an environment that sbatch, and so the jobs, may see: ALLOWED and the names in `passed`."""
    passed = set(passed)
    return {name: value for name, value in environment.items() if name in passed or ALLOWED.fullmatch(name)}


class Client:
    """SLURM's programs. calls: how many of each were made."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.calls: dict[str, int] = {}

    def run(self, program: str, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """What the program prints. SlurmError with the remedy where it fails or does not answer in time."""
        self.calls[program] = self.calls.get(program, 0) + 1
        if shutil.which(program, path=self.environment.get("PATH")) is None:
            raise SlurmError(
                f"{program}: no such program: run this on a login node of a SLURM cluster, or load its module; "
                "`trigscale study run` runs a study on this machine"
            )
        try:
            done = subprocess.run(
                [program, *arguments],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise SlurmError(
                f"{program}: no answer in {timeout:.0f} s: the controller is busy or holds all the jobs it may "
                "(MaxJobCount): try again later"
            ) from None
        if done.returncode:
            raise SlurmError(explained(program, done.stderr or done.stdout))
        return done.stdout

    @cached_property
    def cluster(self) -> str:
        """The cluster's name: numbers of jobs are its own."""
        for line in self.run("scontrol", "show", "config").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "ClusterName":
                return value.strip()
        raise SlurmError("scontrol show config: names no ClusterName: is this a SLURM cluster?")

    def submit(self, script: Path) -> int:
        """The number of the job, or array, that was made of a batch script."""
        out = self.run("sbatch", "--parsable", str(script))
        number = out.strip().partition(";")[0]
        if not number.isdecimal():
            raise SlurmError(f"sbatch: answered {out.strip()!r} instead of a job's number: see `squeue --me`")
        return int(number)

    def test(self, script: Path) -> None:
        """SlurmError where the cluster could never run what a batch script asks for; leaves nothing submitted.

        What nodes that are down or drained could run is refused by a test too: then a held job tells.
        """
        try:
            self.run("sbatch", "--test-only", str(script))
        except SlurmError as error:
            if "node configuration is not available" not in str(error):
                raise
            self.run("scancel", self.run("sbatch", "--hold", "--parsable", str(script)).strip().partition(";")[0])


def explained(program: str, said: str) -> str:
    """What a program of SLURM's said, in one line, with the remedy."""
    words = "; ".join(line.strip() for line in said.splitlines() if line.strip()) or "failed without a word"
    found = [remedy for pattern, remedy in REMEDIES if pattern in words.lower()]
    return f"{words}: {found[0]}" if found else f"{program}: {words}"
