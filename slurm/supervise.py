"""What the batch script of a job runs: one step of its tasks, and what becomes of the job after it.

`python -m slurm.supervise RECORD_OF_THE_SUBMISSION`, in an element of an array. It runs on the job's first node,
outside the step, and is not told of a coming time limit; what it decides on is in `slurm.attempts`, by
`slurm.restarts`.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from slurm.attempts import begin, code_of, end, starts
from slurm.graph import Job
from slurm.interrupts import STOPPING
from slurm.local import not_through_links
from slurm.node import problem
from slurm.private import read_record
from slurm.redaction import Redactor
from slurm.restarts import AGAIN, FAILED, FULL, NO_ROOM, Attempt, Decision, Verdict, decide, progress
from slurm.submissions import Submission, Submissions
from slurm.task import ADDRESS, PORT

LISTENED = range(20000, 32000)  # below the ports that systems give out to whoever calls
REQUEUE_SECONDS = 600.0  # a controller that is down is asked again for so long
RETRY_SECONDS = 5.0
LIMIT_MARGIN = 60.0  # SLURM looks at time limits twice a minute


def job_id(environment: Mapping[str, str]) -> str:
    """ARRAY_INDEX: SLURM_JOB_ID of the element that starts last is the number of the whole array."""
    return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"


class Supervisor:
    """One start of one job."""

    def __init__(self, record: Path) -> None:
        self.submission = Submission.from_json(read_record(record))
        self.submissions = Submissions(record.parents[1])
        self.job: Job = self.submission.jobs[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        self.folder = self.submissions.attempts(self.job.name)
        self.id = job_id(os.environ)
        self.began, self.told = time.time(), False
        for number in STOPPING:
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.told = True

    def run(self) -> int:
        """Run the step and return the code of the batch script; a job that is to start again is requeued."""
        path = begin(self.folder, self.id, progress(self.job.progress))
        *earlier, _ = self._history()
        if earlier and (last := decide(earlier, self.job.restarts)).verdict is Verdict.FAILED:
            return self._close(path, earlier[-1].code, last)  # those before it ended without a word
        if wrong := problem(self.submission.container, self.submission.container_python, path / "begun.json"):
            return self._close(path, FAILED, Decision(Verdict.FAILED, wrong))
        self._step(path)
        code = code_of(path, self.submission.tasks)
        end(path, code, progress(self.job.progress), "", "")
        return self._close(path, code, decide(self._history(), self.job.restarts))

    def _history(self) -> list[Attempt]:
        """The starts of this job of SLURM's since somebody, by submitting or requeueing it, gave it a new beginning."""
        found: list[Attempt] = []
        for start in starts(self.folder):
            if start.id == self.id:
                found.append(start.attempt())
                if start.ended.get("verdict") == Verdict.FAILED.value:
                    found.clear()
        return found

    def _close(self, path: Path, code: int | None, decision: Decision) -> int:
        end(path, code, progress(self.job.progress), decision.verdict.value, decision.reason)
        if decision.verdict is Verdict.DONE:
            return 0
        self._say(f"{self.job.name}: {decision.verdict.value}: {decision.reason}")
        if decision.verdict is Verdict.AGAIN and self._may_requeue(code):
            return self._requeue()
        return code if code is not None and 0 < code < 128 else FAILED

    def _may_requeue(self, code: int | None) -> bool:
        """Not when somebody cancelled the job, which SLURM tells a job by the same signal as the two ends that it goes
        on after: its time limit, and a preemption, after which one that ends in its grace would count as completed.
        Whose step was lost with its node SLURM has requeued itself: the sooner this process is gone, the better.
        """
        if self.told and code is None:
            return False
        if not self.told or time.time() > self.began + 60 * self.submission.minutes - LIMIT_MARGIN:
            return True
        asked = subprocess.run(["scontrol", "-o", "show", "job", self.id], capture_output=True, text=True)
        preempted = re.search(r"\bPreemptTime=(\S+)", asked.stdout)
        return preempted is not None and preempted[1] != "None"

    def _requeue(self) -> int:
        deadline = time.monotonic() + REQUEUE_SECONDS
        while True:
            asked = subprocess.run(["scontrol", "requeue", self.id], capture_output=True, text=True)
            if asked.returncode == 0:
                return AGAIN
            if self.told or time.monotonic() > deadline:
                self._say(f"cannot be requeued: {asked.stderr.strip()}: submit the study again")
                return AGAIN
            time.sleep(RETRY_SECONDS)

    def _step(self, path: Path) -> None:
        """Run the job's tasks; their output goes, without secrets, into the job's log."""
        environment = {**os.environ, ADDRESS: os.environ["SLURMD_NODENAME"], PORT: str(free_port())}
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        redact = Redactor()
        with open(self.job.log, "a", encoding="utf-8", opener=not_through_links) as log:
            log.write(f"start {path.name} as job {self.id} on {os.environ.get('SLURM_JOB_NODELIST', '')}\n")
            log.flush()
            step = subprocess.Popen(
                self._command(path),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            assert step.stdout is not None
            for line in step.stdout:
                log.write(redact(line))
                log.flush()
            step.wait()

    def _command(self, path: Path) -> list[str]:
        """srun with one task a rank; -K1: when one dies the others can do nothing, and are ended."""
        tasks = self.submission.tasks
        srun = ["srun", "-K1", "--unbuffered", "--export=ALL", f"--ntasks={tasks}"]
        if self.submission.cpus_per_task:  # newer versions do not pass it on from the batch script
            srun.append(f"--cpus-per-task={self.submission.cpus_per_task}")
        command = self.job.command
        if self.submission.container:
            command = (*self.submission.container, self.submission.container_python, *command[1:])
        return [*srun, sys.executable, "-P", "-m", "slurm.task", str(path), *command]

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def free_port() -> int:
    """A port that nobody listens on now, of a range from which no caller is given one."""
    for port in random.SystemRandom().sample(LISTENED, 50):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among {shlex.join(map(str, (LISTENED.start, LISTENED.stop)))} on this machine")


def main() -> int:
    """Run the start; NO_ROOM where nothing can be written: SLURM keeps that code, and `slurm.states` knows it."""
    try:
        return Supervisor(Path(sys.argv[1])).run()
    except OSError as error:
        if error.errno not in FULL:
            raise
        return NO_ROOM


if __name__ == "__main__":
    sys.exit(main())
