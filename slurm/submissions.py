"""What was submitted for a graph: a folder of records, one a call of sbatch, that whoever submits next reads first.

    FOLDER/.lock  submissions/TOKEN.json  submissions/TOKEN.sbatch  logs/ARRAY_INDEX.out  attempts/JOB/0001/...

A record is written before sbatch is called, and the job carries its token: a submission that was cut short in between
is found again. Everything here is of mode 0600 or 0700: the records say which commands run.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slurm.graph import Job
from slurm.private import locked, private_folder, read_record, write_record

PATIENCE_SECONDS = 120.0
UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class RecordError(ValueError):
    """A record of a submission that cannot be read; the message names it and the remedy."""


@dataclass(frozen=True)
class Submission:
    """One call of sbatch: an array, of one element or more.

    token: its name. cluster: SLURM's name of that. number: the array's job id, None while sbatch has not answered.
    jobs: by index of the array. cancelled: names of the jobs that were cancelled on request.
    """

    token: str
    kind: str
    jobs: dict[int, Job]
    cluster: str = ""
    dependency: str = ""
    number: int | None = None
    submitted: float = 0.0
    tasks: int = 1
    cpus_per_task: int | None = None
    signal_seconds: int = 120
    minutes: int = 0
    container: tuple[str, ...] = ()
    container_python: str = "python3"
    cancelled: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        jobs = {str(index): {**asdict(job), "log": str(job.log)} for index, job in self.jobs.items()}
        for job in jobs.values():
            job["progress"] = [str(path) for path in job["progress"]]
        return {**{key: getattr(self, key) for key in self.__dataclass_fields__}, "jobs": jobs}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Submission:
        """The record of plain values; KeyError or TypeError where they are none."""
        jobs = {int(index): _job(job) for index, job in content["jobs"].items()}
        container, cancelled = tuple(content["container"]), tuple(content["cancelled"])
        return cls(**{**content, "jobs": jobs, "container": container, "cancelled": cancelled})


def _job(content: dict[str, Any]) -> Job:
    lists = {key: tuple(content[key]) for key in ("command", "parents", "after")}
    progress = tuple(Path(path) for path in content["progress"])
    return Job(**{**content, **lists, "log": Path(content["log"]), "progress": progress})


@dataclass(frozen=True)
class Place:
    """Where a job is in SLURM: element `index` of the array of a submission."""

    submission: Submission
    index: int

    @property
    def id(self) -> str:
        """As SLURM writes it: ARRAY_INDEX, also of an array of one."""
        return f"{self.submission.number}_{self.index}"


class Submissions:
    """The folder of all submissions for one graph."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def logs(self) -> Path:
        """What batch scripts and their steps said besides the jobs' own logs."""
        return self.folder / "logs"

    def attempts(self, job: str) -> Path:
        """The folder of a job's starts."""
        return self.folder / "attempts" / safe_name(job)

    def script(self, token: str) -> Path:
        """The batch script of a submission."""
        return self.folder / "submissions" / f"{token}.sbatch"

    def record(self, token: str) -> Path:
        """The record of a submission."""
        return self.folder / "submissions" / f"{token}.json"

    def prepare(self) -> None:
        """Make the folders, private. PrivacyError where they are not."""
        for path in (self.folder, self.logs, self.folder / "submissions", self.folder / "attempts"):
            private_folder(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time submits or cancels. TimeoutError."""
        with locked(self.folder / ".lock", PATIENCE_SECONDS):
            yield

    def all(self) -> list[Submission]:
        """All submissions, the oldest first. PrivacyError, RecordError name a record that cannot be trusted or read."""
        found = []
        for path in sorted((self.folder / "submissions").glob("[0-9]*.json")):
            try:
                found.append(Submission.from_json(read_record(path)))
            except (KeyError, TypeError, ValueError) as error:
                raise RecordError(f"{path}: is no record of a submission ({error!r}): remove it") from error
        return found

    def places(self) -> dict[str, Place]:
        """Where each job was submitted last, among the submissions that SLURM took."""
        found: dict[str, Place] = {}
        for submission in self.all():
            if submission.number is not None:
                found |= {job.name: Place(submission, index) for index, job in submission.jobs.items()}
        return found

    def write(self, submission: Submission) -> None:
        """Write the record of a submission."""
        write_record(self.record(submission.token), submission.to_json())

    def accepted(self, submission: Submission, number: int) -> Submission:
        """The record with the number that sbatch gave, written."""
        known = replace(submission, number=number, submitted=time.time())
        self.write(known)
        return known

    def new_token(self, kind: str) -> str:
        """A name that no other submission has, in the order of submissions."""
        count = len(list((self.folder / "submissions").glob("[0-9]*.json")))
        return f"{count + 1:04d}-{safe_name(kind)}-{secrets.token_hex(4)}"


def safe_name(name: str) -> str:
    """A name of letters, digits, dots, dashes and underscores, at most 100, the same for the same name."""
    return UNSAFE.sub("-", name)[:100].lstrip(".") or "job"
