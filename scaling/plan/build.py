"""The plan of a study: cost and memory of every run, and what a budget buys. Nothing runs for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.family import Family
from scaling.config.sections import STRATEGIES, Launch, Strategy
from scaling.config.study import StudyConfig
from scaling.config.validation import ConfigError
from scaling.plan.accelerators import DEFAULT, Accelerator, get_accelerator
from scaling.plan.budget import Choice, Work, common_fraction, whole_sizes
from scaling.plan.costs import Cost, cost
from scaling.plan.memory.device import checkpoint_bytes, snapshot_bytes
from scaling.plan.memory.placements import Placement, placements
from scaling.plan.rate import Rate, assumed_rate, measured_rate
from scaling.run.spec import PlannedRun, RunSpec
from scaling.training.sharding.placement import check_devices, strategy_of


@dataclass(frozen=True)
class Options:
    """What may be said beside the study file. None takes the study's own key under launch, or the default."""

    accelerator: str | None = None
    devices: int | None = None
    utilisation: float | None = None
    measured: Path | None = None
    microbatch: int | None = None
    strategy: str | None = None
    budget_hours: float | None = None


@dataclass(frozen=True)
class RunPlan:
    """One run: its work, the bytes of one checkpoint and of all that it leaves on the disk, the strategy that it takes,
    and its memory under each.
    """

    name: str
    spec: RunSpec
    strategy: Strategy
    cost: Cost
    checkpoint_bytes: int
    disk_bytes: int
    placements: tuple[Placement, ...]

    @property
    def work(self) -> Work:
        """What the run takes of a budget."""
        cost = self.cost
        step_flops = cost.train_flops // max(cost.steps, 1)  # a run of imported weights has no steps
        return Work(self.name, self.spec.size, cost.forward_macs, cost.steps, step_flops, cost.evaluation_flops)


@dataclass(frozen=True)
class Plan:
    """What a study costs on one kind of device.

    activation_checkpointing: whether training FLOPs hold the recomputed forward passes.
    """

    study: str
    precision: str
    accelerator: Accelerator
    rate: Rate
    devices: int
    activation_checkpointing: bool
    runs: tuple[RunPlan, ...]
    budget_hours: float | None

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """What the budget buys, each way; empty without a budget."""
        if self.budget_hours is None:
            return {}
        hours = self.budget_hours
        works = [run.work for run in self.runs]

        def fits(flops: int) -> bool:
            return self.rate.hours(flops) <= hours

        return {"whole_sizes": whole_sizes(works, fits), "common_fraction": common_fraction(works, fits)}


def build_plan(config: StudyConfig, family: Family, runs: Sequence[PlannedRun], options: Options) -> Plan:
    """Count all runs of a study. ConfigError names the option or key whose value cannot be."""
    launch = _launch(config.launch, options)
    accelerator = get_accelerator(launch.accelerator or DEFAULT)
    if options.budget_hours is not None and not options.budget_hours > 0:
        raise ConfigError(f"--budget {options.budget_hours}: give a number of device-hours above 0")
    rate = _rate(accelerator, config.precision, options)
    every = options.strategy in (None, "auto") and accelerator.memory_bytes is not None
    planned: list[RunPlan] = []
    for spec in (run.spec for run in runs):
        check_devices(f"{spec.label}-{spec.size}", spec.recipe.batch, launch.devices, launch.microbatch)
        strategy = strategy_of(launch.strategy, family, spec.size, launch.devices)
        shown = STRATEGIES if every else (strategy,)
        planned.append(_plan_run(spec, strategy, accelerator, shown, launch))
    return Plan(
        study=config.name,
        precision=config.precision,
        accelerator=accelerator,
        rate=rate,
        devices=launch.devices,
        activation_checkpointing=launch.activation_checkpointing,
        runs=tuple(planned),
        budget_hours=options.budget_hours,
    )


def _launch(launch: Launch, options: Options) -> Launch:
    """The section `launch` with what the options change; what they hold is checked where it is used."""
    given = {key: getattr(options, key) for key in ("accelerator", "devices", "microbatch", "strategy")}
    return launch.model_copy(update={key: value for key, value in given.items() if value is not None})


def _plan_run(
    spec: RunSpec, strategy: Strategy, accelerator: Accelerator, shown: Sequence[Strategy], launch: Launch
) -> RunPlan:
    network = spec.network_config()
    checkpoint = checkpoint_bytes(network, spec.ema.count, spec.method)
    return RunPlan(
        name=spec.name(),
        spec=spec,
        strategy=strategy,
        cost=cost(spec, checkpointing=launch.activation_checkpointing),
        checkpoint_bytes=checkpoint,
        disk_bytes=_kept(spec.recipe.steps, launch) * checkpoint
        + _snapshots(spec.recipe.steps, launch) * snapshot_bytes(network, spec.ema.count),
        placements=tuple(placements(spec, accelerator, shown, launch.devices, launch.microbatch)),
    )


def _kept(steps: int, launch: Launch) -> int:
    """Checkpoints that stay of a run that is done: the newest, and those of every so many steps before."""
    every = launch.checkpoint_keep_steps
    return min(launch.checkpoint_keep, steps + 1) + (max(steps - 1, 0) // every if every else 0)


def _snapshots(steps: int, launch: Launch) -> int:
    return steps // launch.ema_snapshot_steps if launch.ema_snapshot_steps else 0


def _rate(accelerator: Accelerator, precision: str, options: Options) -> Rate:
    if options.measured is None:
        return assumed_rate(accelerator, precision, options.utilisation)
    if options.utilisation is not None:
        raise ConfigError("--utilisation, --measured: give one of them")
    return measured_rate(accelerator, precision, options.measured)
