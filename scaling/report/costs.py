"""What each run was planned to compute, what it took, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from scaling.plan.costs import cost
from scaling.report.record import RunRecord
from scaling.run.spec import load_run


@dataclass(frozen=True)
class RunCost:
    """FLOPs planned for training, seconds that training took (None: not recorded), and their quotient."""

    run: str
    flops: int
    seconds: float | None

    @property
    def rate(self) -> float | None:
        """FLOP/s that were reached."""
        return self.flops / self.seconds if self.seconds else None


def run_cost(folder: Path, run: RunRecord) -> RunCost | None:
    """The cost of a run by its own configuration; None where that cannot be read, which the report says elsewhere."""
    try:
        spec = load_run(folder / run.name).spec
    except (UserError, OSError):
        return None
    return RunCost(run.name, cost(spec).train_flops, run.timings.train if run.timings else None)


def state(run: RunRecord) -> str:
    """How far a run is: done, sampled, trained, started."""
    if run.scores is not None:
        return "done"
    if run.samples:
        return "sampled, not judged"
    if run.timings is not None and run.timings.train:
        return "training or trained"
    return "started" if run.metrics else "not started"
