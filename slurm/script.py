"""The batch script of an array, as submitit writes it; what runs in it is `slurm.supervise`, and nothing is pickled."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurm.arrays import ranges
from slurm.resources import Request, Settings
from slurm.submissions import Submission, Submissions, safe_name

NEEDS = "submitting to SLURM needs submitit: pip install 'trigscale[slurm]'"


class ScriptError(ValueError):
    """A batch script that cannot be written; the message says what to change."""


def script(submission: Submission, request: Request, settings: Settings, folder: Submissions, study: str) -> str:
    """The text for sbatch. study: stands in the jobs' names. ScriptError for an option that submitit does not know."""
    executor = _executor(folder.folder)
    taken = {
        "job_name": f"{safe_name(study)}-{safe_name(submission.kind)}",
        "time": request.minutes,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "cpus_per_task": request.cpus_per_task,
        "gpus_per_task": request.gpus_per_task or None,
        "mem": f"{request.memory_mb}M" if request.memory_mb else None,
        "signal_delay_s": settings.signal_seconds,
        "comment": submission.token,
        "stderr_to_stdout": True,
        "use_srun": False,
        "setup": _setup(settings),
    }
    executor.update_parameters(**{key: value for key, value in taken.items() if value is not None}, wckey=None)
    own = _own_options(submission, settings, folder)
    executor.update_parameters(additional_parameters={**dict(request.options), **own})
    return executor._make_submission_file_text(_command(folder.record(submission.token)), submission.token)


def _own_options(submission: Submission, settings: Settings, folder: Submissions) -> dict[str, Any]:
    """What must be as it is, whatever else is asked for."""
    throttle = f"%{settings.parallel}" if settings.parallel else ""
    options: dict[str, Any] = {
        "array": ranges([*submission.jobs]) + throttle,
        "output": str(folder.logs / "%A_%a.out"),
        "requeue": True,
        "export": "ALL",
    }
    if submission.dependency:
        # A job whose parent has failed would wait for ever.
        options |= {"dependency": submission.dependency, "kill-on-invalid-dep": "yes"}
    return options


def _setup(settings: Settings) -> list[str]:
    """Lines before the program; one that fails ends the job, whose log then says so."""
    values = {"PYTHONPATH": settings.python_path, "PYTHONSAFEPATH": "1", **settings.environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return ["set -e", *settings.setup, *exports]


def _command(record: Path) -> str:
    words: Sequence[str] = (sys.executable, "-P", "-m", "slurm.supervise", str(record))
    return f"exec {shlex.join(words)}"


def _executor(folder: Path) -> Any:
    """submitit's, which also works where there is no SLURM: to show what would be submitted needs none."""
    try:
        import submitit
    except ImportError as error:
        raise ScriptError(NEEDS) from error

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2

    return Executor(folder=folder)
