"""Loss curves of one small run under any strategy, and the golden curves that it gave before.

    python -m tests.training.agreement --write

writes the golden curves anew, after a change that was meant to change numbers. Seconds.

What is trained: 33 k weights, batch 8, the first steps of 20 at a constant rate of 1e-3, from a network whose gains are
not zero. From zero gains, gradients are at first zero but for rounding, and Adam, whose eps is 1e-11, makes steps of
full length of them: no two orders of summation would agree. At this rate a difference of one unit roundoff stays below
1e-6 over the 20 steps. The loss is never near zero, so that relative differences mean something.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from data_pipeline.reader import LatentReader
from models.network import NetworkConfig
from scaling.config.recipes import ConsistencyRecipe, ScdVsdRecipe, TeacherRecipe, VsdRecipe
from scaling.config.sections import Launch
from scaling.run.spec import RunSpec
from scaling.training.checkpoints.checkpoint import Checkpointer, newest
from scaling.training.origin import InMemory
from scaling.training.sharding.world import World, joined
from scaling.training.trainer import Trainer
from tests.models.networks import network
from tests.ranks import run_ranks
from tests.training.small import SPEC, pack_small

GOLDEN = Path(__file__).with_name("golden.json")
STRATEGIES = {"ddp": 2, "fsdp2": 2, "hsdp": 4, "zero1": 2, "zero2": 2, "zero3": 2}  # and ranks: 2 x 2 of hsdp
OBJECTIVES = ("teacher", "scd", "sct")
PAIRS = ("vsd", "scd_vsd")  # objectives that train two networks
HALVES = ("bf16", "fp16")
STEPS, BATCH = 20, 8
NET = NetworkConfig(8, 4, 10, 8, (1, 2), 1, (4,), head_channels=8)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """How the run is trained.

    passes: microbatches of a step on each rank. guided: with dropout, and a teacher that is guided, or that loses
    labels. steps: how many of the run's STEPS are taken. cut: steps after which the state goes through a checkpoint
    into a new trainer; 0: never. nudge: relative size of a change of random sign made to every weight before every
    step.
    """

    objective: str
    precision: str = "fp32"
    strategy: str = "ddp"
    ranks: int = 1
    passes: int = 1
    checkpointing: bool = False
    compile: bool = False
    guided: bool = False
    steps: int = 8
    cut: int = 0
    nudge: float = 0.0
    optimizer: str = "adam"


@dataclass(frozen=True)
class Curves:
    """What was logged, step by step; of a second network behind what was logged of the first."""

    loss: list[float]
    grad_norm: list[float]


def spec_of(case: Case) -> RunSpec:
    """The run."""
    common: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "lr": 1e-3, "lr_rampup_images": 0}
    common |= {"dropout": 0.1} if case.guided else {}
    common |= {"optimizer": case.optimizer}
    guided_student = case.guided and case.objective in ("scd", *PAIRS)
    if case.objective == "teacher":
        recipe = TeacherRecipe(**common, label_dropout=0.2 if case.guided else 0.0)
    else:
        kinds = {"vsd": VsdRecipe, "scd_vsd": ScdVsdRecipe}
        common |= {"guidance": (1.0, 2.0) if guided_student else None}
        common |= {} if case.objective == "vsd" else {"warmup_steps": 10}
        recipe = kinds.get(case.objective, ConsistencyRecipe)(**common)
    changes = {"method": case.objective, "precision": case.precision, "recipe": recipe, "seed": 6}
    return SPEC.model_copy(update={**changes, "network": replace(NET, guidance=guided_student).describe()})


def trainer_of(case: Case, shards: Path, world: World) -> Trainer:
    """The run before its first step."""
    launch = Launch.model_validate(
        {
            "strategy": case.strategy,
            "shard_devices": 2,
            "microbatch": BATCH // world.size // case.passes,
            "activation_checkpointing": case.checkpointing,
            "compile": case.compile,
        }
    )
    origin = InMemory(NET, network(torch.float32, NET).state_dict())
    trainer = Trainer(spec_of(case), LatentReader(shards), origin, launch, world)
    if case.precision == "fp16":
        trainer.scale.value = 256.0  # low enough for every step to count
    return trainer


def _train(case: Case, shards: Path, folder: Path) -> Curves:
    """One rank's part."""
    with joined(CPU) as world:
        return _logged(case, shards, folder, world)


def _logged(case: Case, shards: Path, folder: Path, world: World) -> Curves:
    """Train, and be rid of the trainer: where the reducer of DDP is the last to let a gloo group go, both hang."""
    trainer = trainer_of(case, shards, world)
    generator = torch.Generator().manual_seed(0)
    entries = []
    for step in range(case.steps):
        if case.cut and step == case.cut:
            trainer = _restored(trainer, trainer_of(case, shards, world), folder)
        if case.nudge:
            _nudge(trainer, case.nudge, generator)
        entries.append(trainer.train_step().entry)
    told = [(f"{network}loss", f"{network}grad_norm") for network in ("", "fake_") if f"{network}loss" in entries[0]]
    losses, norms = ([entry[key] for key in keys for entry in entries] for keys in zip(*told, strict=True))
    return Curves(losses, norms)


def _restored(trained: Trainer, fresh: Trainer, folder: Path) -> Trainer:
    """A trainer that goes on from a checkpoint of another."""
    checkpointer = Checkpointer(folder, trained.world, keep=1)
    checkpointer.save(trained.step, trained.pieces(), trained.metadata())
    checkpointer.close()
    found = newest(folder, trained.spec.identity(), trained.world)
    assert found is not None
    fresh.restore(found)
    return fresh


def _nudge(trainer: Trainer, size: float, generator: torch.Generator) -> None:
    """Change every weight by its size times `size`, up or down."""
    for piece in trainer.engine.weights().values():
        sign = torch.randint(2, piece.local.shape, generator=generator) * 2 - 1
        piece.local.mul_(1 + size * sign)


@cache
def curves(case: Case) -> Curves:
    """What the run logs, which is the same on all ranks; trained once in this process's life."""
    with tempfile.TemporaryDirectory() as folder:
        shards = pack_small(Path(folder))
        first, *others = run_ranks(case.ranks, _train, case, shards, Path(folder) / "checkpoints")
    assert all(other == first for other in others), "ranks logged different numbers"
    return first


def difference(ours: list[float], wanted: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, wanted, strict=True))


def rounding(case: Case) -> float:
    """What half precision does to the losses of one process: their largest difference to those in float32."""
    return difference(curves(case).loss, curves(replace(case, precision="fp32")).loss)


def golden_cases() -> dict[str, Case]:
    """By name, the runs of one process whose losses are kept."""
    plain = {f"{o} {p}": Case(o, p) for o in OBJECTIVES for p in ("fp32", *HALVES)}
    return plain | {f"{o} fp32 guided": Case(o, guided=True) for o in (*OBJECTIVES, *PAIRS)}


def golden() -> dict[str, list[float]]:
    """The losses that were kept, by the names of `golden_cases`."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def main() -> None:
    """Write the golden curves anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True, help=f"write {GOLDEN.name}")
    parser.parse_args()
    found = {name: curves(case).loss for name, case in golden_cases().items()}
    rows = [f"{json.dumps(name)}: {json.dumps(losses)}" for name, losses in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
