"""TensorBoard and Weights & Biases: the lines of metrics.jsonl and the grids of samples, shown while a run trains.

metrics.jsonl is the record; a tracker shows it. One that cannot be opened is an error before training begins, one that
fails later a warning.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import write_json_atomic
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.run.home import RunHome
from scaling.run.metrics import read_metrics
from scaling.run.spec import RunSpec
from scaling.training.observe.metrics import Tracker

SAFE_SECONDS = 30.0  # after which a row of W&B outlives this process; it writes its files every 15
FINISH_SECONDS = 20.0  # for W&B to send the rest; less than a run that is asked to stop may take

log = logging.getLogger(__name__)


class TrackerError(ConfigError):
    """A tracker that the launch asks for and that cannot be opened; the message says what to change."""


def check_trackers(launch: Launch) -> None:
    """TrackerError where the package of a tracker that `launch` asks for is not installed."""
    if launch.tensorboard:
        _require("tensorboard", "launch.tensorboard: true", "false")
    if launch.wandb is not None:
        _require("wandb", f"launch.wandb: {launch.wandb!r}", "null")


def _require(package: str, asked: str, without: str) -> None:
    found = importlib.util.find_spec(package)
    # W&B leaves a folder `wandb` where it runs, which Python takes for a package without an origin.
    if found is None or found.origin is None:
        raise TrackerError(
            f"{asked}, but {package} is not installed: pip install 'trigscale[{package}]', or set it to {without}"
        )


def open_trackers(launch: Launch, home: Path, spec: RunSpec, resume_step: int) -> list[Tracker]:
    """The trackers that `launch` asks for, to go on after `resume_step`; none of them can end the training.

    Raises TrackerError where a package is missing or a tracker refuses to start.
    """
    check_trackers(launch)
    trackers: list[Tracker] = []
    if launch.tensorboard:
        trackers.append(Forgiving("TensorBoard", TensorBoard(home / "tensorboard", resume_step)))
    if launch.wandb is not None:
        trackers.append(Forgiving("Weights & Biases", Wandb(launch.wandb, home, spec, resume_step)))
    return trackers


class Forgiving:
    """A tracker whose failures are told once, as a warning."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker, self._told = name, tracker, False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """`Tracker.write`."""
        self._try(lambda: self._tracker.write(step, values))

    def image(self, step: int, path: Path) -> None:
        """`Tracker.image`."""
        self._try(lambda: self._tracker.image(step, path))

    def close(self) -> None:
        """`Tracker.close`."""
        self._try(self._tracker.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any kind: it is another's program, and training is worth more
            if not self._told:
                log.warning("%s fails and may miss what follows; training goes on: %r", self._name, error)
            self._told = True


class TensorBoard:
    """Event files in a folder; those of steps after a restart's checkpoint are marked as void."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar for each number, on the disk when this returns."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, path: Path) -> None:
        """The picture, under the name that its file has without the step."""
        from PIL import Image  # a run without grids gets by without it

        with Image.open(path) as picture:
            self._writer.add_image(_title(path), np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Wandb:
    """One run of Weights & Biases for one home: a restart continues it, online and offline.

    Its id is our run's identity and eight random digits, kept in the home's wandb.json, since W&B never takes the id of
    a deleted run again. Its steps are ours and only rise: what was sent before a restart is not sent again, and lines
    of metrics.jsonl that a kill kept from it are sent then. Online the server knows what was sent. Offline
    (WANDB_MODE=offline) wandb.json has a step up to which all is on the disk for sure, and every restart leaves one
    more folder wandb/offline-run-*: `wandb sync` makes one run of them, in which rows of the last minute before a kill
    may be found twice.
    """

    def __init__(self, project: str, home: Path, spec: RunSpec, resume_step: int) -> None:
        import wandb

        self._make_image = wandb.Image
        self._path = home / "wandb.json"
        known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self._id: str = known.get("id", f"{spec.identity()}-{secrets.token_hex(4)}")
        self._record(known.get("step", -1))
        try:
            self._run = wandb.init(
                project=project,
                id=self._id,
                resume="allow",
                name=spec.name(),
                dir=home,
                config=spec.model_dump(mode="json"),
                settings=wandb.Settings(console="off", finish_timeout=FINISH_SECONDS, finish_timeout_raises=True),
            )
        except Exception as error:  # of many kinds, its own and its service's
            raise TrackerError(
                f"launch.wandb: project {project!r} cannot be opened ({error}): log in with `wandb login`, set "
                "WANDB_MODE=offline where there is no network, or set launch.wandb to null"
            ) from error
        self._sent = known.get("step", -1) if self._run.offline else self._run.step - 1
        self._last = self._sent  # the step whose row is open
        self._whole = (self._sent, time.monotonic())  # a step whose row was complete at that time
        for line in read_metrics(RunHome(home).metrics).lines:
            if line["step"] <= resume_step:
                values = {name: math.nan if value is None else value for name, value in line.items() if name != "step"}
                self.write(line["step"], values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step, unless they were sent before a restart."""
        self._log(step, values)

    def image(self, step: int, path: Path) -> None:
        """Send a picture, under the name that its file has without the step."""
        self._log(step, {_title(path): self._make_image(str(path))})

    def close(self) -> None:
        """Wait until all is sent, or offline written."""
        self._run.finish()
        self._record(self._last)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if step <= self._sent:
            return
        self._run.log(dict(values), step=step)
        now = time.monotonic()
        if step > self._last and now - self._whole[1] > SAFE_SECONDS:
            self._record(self._whole[0])
            self._whole = (self._last, now)  # a row is complete when the next begins
        self._last = step

    def _record(self, step: int) -> None:
        """Note that what comes after a restart need not be sent again up to this step."""
        write_json_atomic(self._path, {"id": self._id, "step": step})


def _title(path: Path) -> str:
    """step-00000100-2.png -> samples/2: the pictures of one name make a series."""
    return f"samples/{path.stem.rpartition('-')[2]}"
