"""The folders of a study and of its runs: the name of every file in them, and how each is read and written.

    STUDY/  study.json  environment.json  real.npz  reference-*.npz  report/
        METHOD-SIZE-HASH/  config.yaml  log.txt  metrics.jsonl  checkpoints/  snapshots/  grids/  samples/steps-N.npz
                           timings.json  truth.npz  slopes.npz  guidance.json
                           scores.json, which is written last: a run that has it is done

A file is what its schema says or it is damaged. Whoever only reads says so; whoever runs the study sets it aside under
NAME.damaged, with a warning, and makes it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from data_pipeline.errors import UserError
from data_pipeline.files import set_aside, write_json_atomic
from scaling.run.schemas import Environment, GuidanceScores, RunScores, StudyRuns, Timings

M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", RunScores, GuidanceScores)
T = TypeVar("T")

log = logging.getLogger(__name__)


class DamagedError(UserError):
    """A file that does not hold what its schema says; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class RunHome:
    """The folder of one run."""

    path: Path

    @property
    def name(self) -> str:
        """METHOD-SIZE-HASH."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The run as it was planned (`scaling.run.spec.RunFile`)."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def metrics(self) -> Path:
        """A line every few steps (`scaling.run.metrics`)."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folders that `scaling.training.checkpoints` writes."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Checkpoints of the averages alone."""
        return self.path / "snapshots"

    @property
    def grids(self) -> Path:
        """Pictures of samples while it trained."""
        return self.path / "grids"

    @property
    def samples(self) -> Path:
        """The samples that it is judged by, a file for each number of steps."""
        return self.path / "samples"

    @property
    def timings(self) -> Path:
        """`Timings`."""
        return self.path / "timings.json"

    @property
    def truth(self) -> Path:
        """Of the metric `truth`: errors by time (`scaling.work.truth`)."""
        return self.path / "truth.npz"

    @property
    def slopes(self) -> Path:
        """Of evaluation.slopes: how fast f changes, by time (`scaling.work.slopes`)."""
        return self.path / "slopes.npz"

    @property
    def guidance(self) -> Path:
        """Of evaluation.guidance: `GuidanceScores`."""
        return self.path / "guidance.json"

    @property
    def scores(self) -> Path:
        """`RunScores`, the last file of a run."""
        return self.path / "scores.json"

    def sample(self, steps: int, number: int = 0) -> Path:
        """The file of the samples drawn in so many steps; `number` counts the sets, where several are judged."""
        return self.samples / (f"steps-{steps}-set-{number}.npz" if number else f"steps-{steps}.npz")

    def sampled(self) -> dict[int, Path]:
        """The files of samples that there are, by number of steps."""
        found = {path.stem.removeprefix("steps-"): path for path in self.samples.glob("steps-*.npz")}
        return {int(steps): found[steps] for steps in sorted(found, key=len) if steps.isdecimal()}

    def read_scores(self) -> RunScores | None:
        """The scores, None while the run is not done. DamagedError for a file that is not this run's scores."""
        return self._own(self.scores, RunScores)

    def read_guidance(self) -> GuidanceScores | None:
        """What was judged at other guidance strengths, None where nothing was. DamagedError."""
        return self._own(self.guidance, GuidanceScores)

    def _own(self, path: Path, kind: type[S]) -> S | None:
        """Scores that must be this run's."""
        found = read_model(path, kind)
        if found is not None and found.run != self.name:
            raise DamagedError(f"{path}: holds the scores of run {found.run}; {AGAIN}")
        return found

    def read_timings(self) -> Timings | None:
        """The timings, None before the first stage. DamagedError."""
        return read_model(self.timings, Timings)

    def is_done(self) -> bool:
        """Whether the run has its scores; damaged ones are set aside, and the run is not done."""
        return sound(self.scores, self.read_scores) is not None

    def clear_ways(self) -> None:
        """Set aside files that stand where folders belong, and the other way round."""
        for path in (self.checkpoints, self.snapshots, self.grids, self.samples):
            clear_way(path, folder=True)
        for path in (self.metrics, self.timings, self.guidance, self.scores):
            clear_way(path)


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the process that runs the study."""
        return self.path / ".lock"

    @property
    def runs(self) -> Path:
        """`StudyRuns`."""
        return self.path / "study.json"

    @property
    def environment(self) -> Path:
        """`Environment`."""
        return self.path / "environment.json"

    @property
    def real(self) -> Path:
        """Real images that stand beside samples in the report."""
        return self.path / "real.npz"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    def home(self, run: str) -> RunHome:
        """The folder of the run of that name."""
        return RunHome(self.path / run)

    def homes(self) -> list[RunHome]:
        """The folders of the runs that study.json names, [] before any launch. DamagedError."""
        found = read_model(self.runs, StudyRuns)
        if found is None:
            return []
        if wrong := [name for name in found.runs if "/" in name or name.startswith(".") or not name.isprintable()]:
            raise DamagedError(f"{self.runs}: runs: {wrong[0]!r:.80} is no name of a run; {AGAIN}")
        return [self.home(name) for name in found.runs]

    def read_environment(self) -> Environment | None:
        """What was run with what, None before any launch. DamagedError."""
        return read_model(self.environment, Environment)


AGAIN = "`trigscale study run` makes it again"


def read_model(path: Path, schema: type[M]) -> M | None:
    """What a JSON file holds, None where there is none; DamagedError names file, key and value."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise DamagedError(f"{path}: is a folder where a file belongs; {AGAIN}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        value = f" (value {first['input']!r:.80})" if first["type"] not in ("missing", "json_invalid") else ""
        raise DamagedError(f"{path}: {key}: {first['msg']}{value}; {AGAIN}") from None


def write_model(path: Path, content: BaseModel) -> None:
    """Write a JSON file, complete or not at all. OSError names it."""
    write_json_atomic(path, content.model_dump(mode="json", exclude_unset=False))


def sound(path: Path, read: Callable[[], T | None]) -> T | None:
    """What `read` makes of a file; where it raises a UserError, the file is set aside with a warning: None."""
    try:
        return read()
    except UserError as error:
        log.warning("%s; set aside as %s", error, set_aside(path).name)
        return None


def clear_way(path: Path, *, folder: bool = False) -> None:
    """Set aside a folder that stands where a file belongs, or with `folder` a file where a folder does."""
    if path.exists() and path.is_dir() != folder:
        log.warning("%s: is a %s; set aside as %s", path, "file" if folder else "folder", set_aside(path).name)
