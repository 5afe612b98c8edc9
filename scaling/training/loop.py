"""The training loop of one run, from its configuration to its last checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline.reader import LatentReader
from scaling.config.sections import Launch, Loading
from scaling.errors import Interrupted
from scaling.run.home import RunHome
from scaling.run.spec import RunSpec
from scaling.training.batches import PLAIN
from scaling.training.checkpoints.checkpoint import Checkpointer, newest
from scaling.training.checkpoints.files import settle
from scaling.training.observe.grids import Grids
from scaling.training.observe.metrics import MetricsLog
from scaling.training.observe.profile import ProfileWindow
from scaling.training.observe.trackers import open_trackers
from scaling.training.origin import Origin
from scaling.training.sharding.world import World
from scaling.training.trainer import Report, Trainer

log = logging.getLogger(__name__)


def train(
    spec: RunSpec,
    home: Path,
    reader: LatentReader,
    origin: Origin | None,
    launch: Launch,
    world: World,
    should_stop: Callable[[], bool],
    loading: Loading = PLAIN,
    vae: Path | None = None,
    start: Origin | None = None,
    guide: Origin | None = None,
) -> None:
    """Train a run to its last step, continuing from its newest checkpoint, and leave the checkpoint of the last step.

    Every rank of the run calls it. A run of no steps is what it starts from, saved at step 0. Raises Interrupted on
    all ranks, with the state saved, once `should_stop` says so on one; TrainingError after too many bad steps. vae: the
    folder of the VAE that makes the pictures of grids. origin, start, guide: see `Trainer`.
    """
    steps, folder = spec.recipe.steps, RunHome(home).checkpoints
    found = newest(folder, spec.identity(), world)
    if found is not None and world.leads:
        settle(found.path)
    if found is not None and found.step >= steps:
        return
    trainer = Trainer(spec, reader, origin, launch, world, loading, start, guide)
    if found is not None:
        trainer.restore(found)
        log.info("continuing after step %d of %d", found.step, steps)
    with Session(spec, home, launch, trainer, vae) as session:
        if not steps:
            session.save()
        while trainer.step < steps:
            with session.profile.around(trainer.step + 1):
                report = trainer.train_step({"stop": should_stop(), "save": session.save_is_due()})
            last, stop = trainer.step == steps, "stop" in report.wishes
            logged = last or trainer.step % launch.log_every == 0
            if logged:
                session.log(report)
            session.observe()
            # Checkpoints fall on logged steps where they may, so that images/s is counted without a seam.
            if last or stop or (logged and "save" in report.wishes):
                session.save()
            if stop and not last:
                raise Interrupted(f"stopped after step {trainer.step} of {steps}, which is saved")


class Session:
    """What a run writes while it trains: metrics, checkpoints, snapshots of the averages, grids and profiles.

    Leaving it waits until all that was begun is on the disk, unless training failed: then the newest whole checkpoint
    is what a restart continues from.
    """

    def __init__(self, spec: RunSpec, home: Path, launch: Launch, trainer: Trainer, vae: Path | None = None) -> None:
        self.launch, self.trainer, world = launch, trainer, trainer.world
        self.grids = Grids(spec, launch, home, world, vae)
        self.profile = ProfileWindow(launch, home, world.device, world.rank)
        trackers = open_trackers(launch, home, spec, trainer.step) if world.leads else []
        self.metrics = MetricsLog(home, trainer.step, spec.recipe.batch, trackers) if world.leads else None
        self.checkpoints = Checkpointer(
            RunHome(home).checkpoints, world, keep=launch.checkpoint_keep, keep_steps=launch.checkpoint_keep_steps
        )
        self.snapshots = Checkpointer(RunHome(home).snapshots, world, keep=1, keep_steps=1)
        self.saved = time.monotonic()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or kind is Interrupted:
            self.checkpoints.close()
            self.snapshots.close()
            self.profile.close()
        self.trainer.batches.close()
        if self.metrics is not None:
            self.metrics.close()

    def log(self, report: Report) -> None:
        """Append the step's line to the metrics."""
        if self.metrics is not None:
            counted = {"skipped": self.trainer.skipped, **self.trainer.set_aside()}
            self.metrics.write(self.trainer.step, {**report.entry, **counted})

    def save_is_due(self) -> bool:
        """Whether it is time for a checkpoint, by the clock of rank 0."""
        return self.trainer.world.leads and time.monotonic() - self.saved > self.launch.checkpoint_seconds

    def save(self) -> None:
        """Begin to write a checkpoint; what its steps left, lines and snapshots, is on the disk before it."""
        if self.metrics is not None:
            self.metrics.sync()
        trainer, snapshot = self.trainer, self.snapshots.writing
        self.checkpoints.save(trainer.step, trainer.pieces(), trainer.metadata(), after=snapshot)
        self.saved = time.monotonic()

    def observe(self) -> None:
        """Keep a snapshot of the averages and draw samples, where the step asks for it."""
        trainer, every = self.trainer, self.launch.ema_snapshot_steps
        if every and trainer.step % every == 0:
            self.snapshots.save(trainer.step, trainer.averaged(), trainer.metadata())
        if self.grids.due(trainer.step):
            paths = self.grids.draw(trainer.step, trainer.sampled(), trainer.engine.buffers())
            if self.metrics is not None:
                self.metrics.images(trainer.step, paths)
