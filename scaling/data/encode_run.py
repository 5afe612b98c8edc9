"""The processes that encode a set of images: each its share of the shards; whoever is last writes the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from data_pipeline.files import clear_partials
from data_pipeline.manifest import MANIFEST_NAME, DataError, Manifest
from data_pipeline.parts import Plan, Tallies, abandon, begin, finish, finished, missing, write_part
from models.vae import open_vae
from scaling.data.encode import Job, describe_tallies, encode_shard
from scaling.data.progress import Progress
from scaling.errors import Interrupted
from scaling.run.locks import locked

FINISHING_SECONDS = 3600.0  # how long another process is waited for that writes the manifest
READERS = 8  # threads that read images for one process, at most


@dataclass(frozen=True)
class Share:
    """Shards number first, first + every, ... of a set, for the process that has this place on its machine."""

    first: int
    every: int
    local: int

    @classmethod
    def of_task(cls) -> Share:
        """Of this process among those that torchrun or srun started, alone where they did not."""
        for rank, size, local in (
            ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # SLURM_NTASKS is there without srun too
        ):
            if rank in os.environ and size in os.environ:
                return cls(int(os.environ[rank]), int(os.environ[size]), int(os.environ.get(local, 0)))
        return cls(0, 1, 0)

    def split(self, processes: int) -> list[Share]:
        """The shares of so many processes that do the work of this one."""
        places = range(processes)
        return [Share(self.first * processes + n, self.every * processes, self.local * processes + n) for n in places]

    def of(self, shards: list[int]) -> list[int]:
        """Which of these shards are this share's."""
        return [shard for shard in shards if shard % self.every == self.first]


def encode(job: Job, folder: Path, samples_per_shard: int, processes: int, device: str) -> Manifest | None:
    """Encode what is missing of this task's share; the manifest once all is there, None while others still work.

    Raises DataError, EncoderError, LockError, FileExistsError, OSError naming the file. Whatever whole shards were
    written stay, and the same call goes on with the rest; a finished set is found so.
    """
    plan, share = job.plan(samples_per_shard), Share.of_task()
    if (done := finished(folder, plan)) is not None:
        return done
    begin(folder, plan)
    try:
        return _encode(_Work(job, folder, plan, device), share, processes)
    except BaseException:
        if share.every == 1:  # nobody else is writing
            abandon(folder)
        raise


def _encode(work: _Work, share: Share, processes: int) -> Manifest | None:
    folder, plan = work.folder, work.plan
    if share.every == 1:
        clear_partials(folder)
    left = share.of(missing(folder, plan))
    if left:
        with Progress(sum(len(plan.span(shard)) for shard in left) // work.job.copies, "images") as progress:
            if processes == 1:
                _write_share(work, share, 1, progress.add)
            else:
                _write_shares(work, share.split(processes), progress)
    return _finish(folder, plan)


def _finish(folder: Path, plan: Plan) -> Manifest | None:
    """The manifest of a whole set, written by whoever holds the lock first; None where shards are missing."""
    if (folder / MANIFEST_NAME).exists():
        return Manifest.load(folder)
    if missing(folder, plan):
        return None
    lock = folder / ".lock"
    with locked(lock, FINISHING_SECONDS):
        if not (folder / MANIFEST_NAME).exists():
            finish(folder, plan, describe_tallies)
        lock.unlink(missing_ok=True)
    return Manifest.load(folder)


@dataclass(frozen=True)
class _Work:
    job: Job
    folder: Path
    plan: Plan
    device: str


def _write_share(work: _Work, share: Share, processes: int, seen: Callable[[int], None]) -> None:
    """Every missing shard of a share, one after the other."""
    job = work.job
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores)
    torch.backends.cudnn.deterministic = True
    vae = open_vae(job.vae, job.low, _device(work.device, share.local))
    with ThreadPoolExecutor(min(cores, READERS)) as threads:
        for shard in share.of(missing(work.folder, work.plan)):
            tallies: Tallies = {}
            samples = encode_shard(job, vae, work.plan.span(shard), threads, tallies, seen)
            write_part(work.folder, work.plan, shard, samples, tallies)


def _device(name: str, place: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DataError("--device cuda: torch sees no GPU: set cpu, or auto")
    return torch.device("cuda", place % torch.cuda.device_count())


# In a process of a pool: the images that all of them have encoded (below 0: stop), and the process that began it.
_counter: Any = None
_parent = 0
STOP = -1


def _join(counter: Synchronized[int], parent: int) -> None:
    global _counter, _parent
    _counter, _parent = counter, parent


def _in_process(work: _Work, share: Share, processes: int) -> None:
    def seen(images: int) -> None:
        with _counter.get_lock():
            if _counter.value == STOP or os.getppid() != _parent:
                raise Interrupted("another process of it failed, or is gone")
            _counter.value += images

    _write_share(work, share, processes, seen)


def _write_shares(work: _Work, shares: list[Share], progress: Progress) -> None:
    context = get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(len(shares), context, _join, (counter, os.getpid())) as pool:
        futures = [pool.submit(_in_process, work, share, len(shares)) for share in shares]
        try:
            _watch(futures, counter, progress)
        except BrokenProcessPool as error:
            raise DataError(
                f"{work.folder}: a process was killed (out of memory?): run the same command again, with fewer "
                "--processes if it recurs"
            ) from error
        finally:  # whoever still works has a reason to stop
            counter.value = STOP


def _watch(futures: list[Future[None]], counter: Synchronized[int], progress: Progress) -> None:
    """Show what the processes count until all are done; what one of them raises is raised here."""
    told, rest = 0, set(futures)
    while rest:
        done, rest = wait(rest, timeout=1.0, return_when=FIRST_EXCEPTION)
        now = counter.value
        progress.add(now - told)
        told = now
        for future in done:
            future.result()
