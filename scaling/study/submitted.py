"""Where the jobs of a study on a cluster are noted, and what a user is told of the cluster's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import UserError
from slurm.client import SlurmError
from slurm.script import ScriptError
from slurm.submissions import RecordError, Submissions


class ClusterError(UserError):
    """The cluster refused, or could not be asked; the message says what to change."""


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Within the block errors of the cluster, and of what is noted of it, become a ClusterError."""
    try:
        yield
    except (SlurmError, ScriptError, RecordError, TimeoutError) as error:
        raise ClusterError(str(error)) from error


def submissions_of(folder: Path) -> Submissions:
    """What was submitted of the study in that folder."""
    return Submissions(folder.resolve() / "slurm")
