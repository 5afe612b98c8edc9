"""The plan as plain values, for machines: units are in the keys, FLOPs are twice the MACs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from scaling.plan.budget import Choice
from scaling.plan.build import Plan, RunPlan
from scaling.plan.rate import Rate


def plan_json(plan: Plan) -> dict[str, object]:
    """All that the plan holds."""
    accelerator = plan.accelerator
    return {
        "study": plan.study,
        "precision": plan.precision,
        "accelerator": {
            "name": accelerator.name,
            "peak_flops_per_second": accelerator.peak_flops[plan.precision],
            "memory_bytes": accelerator.memory_bytes,
            "usable_bytes": accelerator.usable_bytes,
        },
        "rate": asdict(plan.rate),
        "devices": plan.devices,
        "activation_checkpointing": plan.activation_checkpointing,
        "runs": [_run_json(run, plan.rate) for run in plan.runs],
        "totals": totals(plan.runs, plan.rate),
        "budget": {
            "device_hours": plan.budget_hours,
            **{way: _choice_json(plan, choice) for way, choice in plan.choices.items()},
        },
    }


def totals(runs: Sequence[RunPlan], rate: Rate) -> dict[str, float]:
    """Sums over runs; checkpoint_bytes: one checkpoint a run; disk_bytes: all checkpoints and snapshots that stay."""
    costs = [run.cost for run in runs]
    return {
        "runs": len(runs),
        "images": sum(cost.images for cost in costs),
        "train_flops": sum(cost.train_flops for cost in costs),
        "sampling_flops": sum(cost.sampling_flops for cost in costs),
        "decoding_flops": sum(cost.decoding_flops for cost in costs),
        "evaluation_flops": sum(cost.evaluation_flops for cost in costs),
        "device_hours": rate.hours(sum(cost.flops for cost in costs)),
        "checkpoint_bytes": sum(run.checkpoint_bytes for run in runs),
        "disk_bytes": sum(run.disk_bytes for run in runs),
    }


def _run_json(run: RunPlan, rate: Rate) -> dict[str, object]:
    spec, cost = run.spec, run.cost
    return {
        **{"run": run.name, "method": spec.label, "size": spec.size, "seed": spec.seed},
        "strategy": run.strategy,
        **asdict(cost),
        "evaluation_flops": cost.evaluation_flops,
        "train_device_hours": rate.hours(cost.train_flops),
        "device_hours": rate.hours(cost.flops),
        "checkpoint_bytes": run.checkpoint_bytes,
        "disk_bytes": run.disk_bytes,
        "memory": [placement.to_json() for placement in run.placements],
    }


def _choice_json(plan: Plan, choice: Choice) -> dict[str, object]:
    return {
        "fraction": choice.fraction,
        "device_hours": plan.rate.hours(choice.flops),
        "runs": [
            {
                "run": run.name,
                "bought": run.name in choice.steps,
                "steps": choice.steps.get(run.name, 0),
                "steps_left_out": run.cost.steps - choice.steps.get(run.name, 0),
            }
            for run in plan.runs
        ],
    }
