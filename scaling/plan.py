"""What a study costs, before anything runs: parameters, multiply-adds, training compute, estimated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from models.family import count_macs, count_parameters
from models.unet import NetworkConfig
from scaling.config import StudentRecipe, StudyConfig
from scaling.runs import Run, RunSpec
from scaling.sampling import teacher_evaluations

if TYPE_CHECKING:
    from rich.table import Table

# Forward passes that a training step costs by multiply-adds: a backward pass counts two, a tangent one.
FORWARDS = {"teacher": 3, "sct": 4, "scd": 5}
# Multiply-adds a second that one CPU core of 2022 was seen to give a small U-Net; only ratios of estimates matter.
CORE_MACS = 3e10


@dataclass(frozen=True)
class Cost:
    """The cost of one run. macs: multiply-adds of one forward pass of one sample; FLOPs are twice the multiply-adds."""

    run: str
    parameters: int
    macs: int
    images: int
    train_flops: float
    sample_flops: float
    core_seconds: float


def cost(spec: RunSpec) -> Cost:
    """Count one run's work."""
    parameters, macs = _count(spec.network_config())
    images = spec.recipe.steps * spec.recipe.batch
    train = images * FORWARDS[spec.method] * macs * 2
    sampling = spec.evaluation.samples * evaluations(spec) * macs * 2
    return Cost(spec.name(), parameters, macs, images, train, sampling, (train + sampling) / 2 / CORE_MACS)


def evaluations(spec: RunSpec) -> int:
    """Network evaluations a sample, over all samplers of the run."""
    if not isinstance(spec.recipe, StudentRecipe):
        return teacher_evaluations(spec.sampling.teacher_steps)
    return sum(spec.sampling.student_steps)


def seconds_estimate(spec: RunSpec) -> float:
    """Core-seconds of a run, for ordering jobs and for a bar; not a promise."""
    return cost(spec).core_seconds


@lru_cache
def _count(network: NetworkConfig) -> tuple[int, int]:
    return count_parameters(network), count_macs(network)


def plan_json(runs: Sequence[Run]) -> list[dict[str, object]]:
    """The costs of all runs as plain values."""
    return [asdict(cost(run.spec)) for run in runs]


def plan_table(config: StudyConfig, runs: Sequence[Run]) -> Table:
    """The costs of all runs for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    title = f"study {escape(config.name)}: {len(runs)} runs"
    table = Table(title=title, caption="MACs: multiply-adds of one forward pass; FLOPs = 2 MACs; time on one CPU core")
    table.add_column("run", no_wrap=True)
    for heading in ("parameters", "MACs", "images", "training FLOPs", "sampling FLOPs", "core time"):
        table.add_column(heading, justify="right")
    total = 0.0
    for run in runs:
        c = cost(run.spec)
        total += c.core_seconds
        numbers = (f"{c.parameters:,}", f"{c.macs / 1e6:.2f} M", f"{c.images:,}", f"{c.train_flops:.2e}")
        table.add_row(escape(c.run), *numbers, f"{c.sample_flops:.2e}", f"{c.core_seconds:,.0f} s")
    table.add_section()
    table.add_row("total", "", "", "", "", "", f"{total:,.0f} s")
    return table
