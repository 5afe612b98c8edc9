"""All state of one run in training, and one step of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from data_pipeline.reader import LatentReader
from models.trigflow import TrigFlowNet
from scaling.config.methods import GUIDE, PARTS, TEACHER, NetworkName, is_distilled
from scaling.config.recipes import Recipe, StudentRecipe
from scaling.config.sections import Launch, Loading
from scaling.errors import TrainingError
from scaling.methods.batch import Batch, Losses
from scaling.methods.method import Turn, turns_of
from scaling.run.devices import onto
from scaling.run.spec import RunSpec
from scaling.training.batches import PLAIN, Batches
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import Averages, profile_name
from scaling.training.loss_scale import LossScale
from scaling.training.origin import Origin
from scaling.training.sharding.engine import Engine
from scaling.training.sharding.parallel import build_engine, freeze
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World
from scaling.training.start import first_networks

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


def learning_rate(recipe: Recipe, step: int) -> float:
    """alpha_ref / sqrt(max(step / t_ref, 1)) after a linear ramp-up in images (EDM2, Eq. 67); steps count from 1.

    Over the C steps of lr_cooldown it falls linearly: the last one has 1/C of the rate.
    """
    rate = recipe.lr / math.sqrt(max(step / recipe.lr_decay_steps, 1))
    if recipe.lr_rampup_images:
        rate *= min(1.0, step * recipe.batch / recipe.lr_rampup_images)
    if cooldown := round(recipe.lr_cooldown * recipe.steps):
        rate *= min(1.0, (recipe.steps - step + 1) / cooldown)
    return rate


@dataclass(frozen=True)
class Report:
    """What a step tells, the same on all ranks: numbers to log (means over the batch), and wishes that were raised."""

    entry: dict[str, float]
    wishes: frozenset[str]


class Trainer:
    """The networks of a method with their optimizers, averages and loss scale, its losses, and how far training is.

    engines: by name, of the networks in training; engine: of the first, which alone is averaged, sampled and distilled.
    step: steps begun; updates: those that were not skipped. Every rank has one, and calls its methods in step.
    """

    def __init__(
        self,
        spec: RunSpec,
        reader: LatentReader,
        origin: Origin | None,
        launch: Launch,
        world: World,
        loading: Loading = PLAIN,
        start: Origin | None = None,
        guide: Origin | None = None,
    ) -> None:
        """Before the first step. origin: the teacher of a student, or the network at rest that a teacher starts from.

        start: the network that a student goes on from, where that is not the teacher. guide: a weaker network, away
        from which the teacher is guided, None: from the teacher without labels. RuntimeError where one is not the
        network that the run should take; ParallelError where the strategy cannot be had.
        """
        assert origin is not None or not isinstance(spec.recipe, StudentRecipe), "a student's run names its teacher"
        self.spec, self.world = spec, world
        self.batches = Batches(spec, reader, world, launch.microbatch, loading)
        self.engines: dict[NetworkName, Engine] = {}
        for name, first in first_networks(spec, origin, start).items():
            self.engines[name] = build_engine(first, launch, world, spec.recipe.optimizer)
        self.main = PARTS[spec.method].trained[0]
        self.engine = self.engines[self.main]
        self.networks: dict[NetworkName, TrigFlowNet] = {}
        if is_distilled(spec.method):
            frozen: dict[NetworkName, Origin | None] = {TEACHER: origin, GUIDE: guide}
            self.networks = {name: freeze(one, launch, world) for name, one in frozen.items() if one}
        # What is called: a network, or what wraps it and is called like it.
        self.networks |= {name: cast(TrigFlowNet, engine.net) for name, engine in self.engines.items()}
        self._settled = not any(engine.settles for engine in self.engines.values())
        self.turns = turns_of(spec.method, spec.recipe, self.networks)
        self.weights = self.engine.weights()
        self.averages = Averages(self.weights, spec.ema, spec.recipe.batch)
        self._pieces = self._all_pieces()
        self.scale = LossScale.of(spec.precision)
        self.step = self.updates = self.skipped = self.skipped_in_row = self.stand_ins = 0
        self.lenient = loading.on_bad_shard == "skip"

    def train_step(self, wishes: Mapping[str, bool] | None = None) -> Report:
        """One step of the optimizer over all microbatches of all ranks, or none where loss or gradient is not finite.

        `wishes` of any rank, such as to stop, are in the report of every rank. TrainingError after too many skips.
        """
        rate = learning_rate(self.spec.recipe, self.step + 1)
        report = self._agree(self._gradient(), rate, wishes or {})
        self.step += 1
        finite = all(math.isfinite(report.entry[key]) for name in self.engines for key in self._judged(name))
        if finite:
            self._update(rate)
        else:
            self._skip(report.entry)
        self.scale.update(finite, self.spec.precision)
        return report

    def loss(self, batch: Batch, turn: Turn | None = None) -> Losses:
        """The loss of one microbatch; turn: which of the method's, None: its first."""
        precision, turn = self.spec.precision, turn or self.turns[0]
        with torch.autocast(self.world.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            return turn.loss(self.networks, batch, self.step + 1)

    def _gradient(self) -> dict[str, Tensor]:
        """Leave the gradients of the mean losses in the engines; the means over this rank's share of what is logged.

        The first one of this process is computed twice where it would differ, by the order of its sums, from that of
        a process that got here without a restart.
        """
        batches: Iterable[Batch] = self.batches.step(self.step)
        if not self._settled:
            batches = [*batches]
            self._backward(batches)
            for engine in self.engines.values():
                engine.discard()
            self._settled = True
        return self._backward(batches)

    def _backward(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        means: dict[str, Tensor] = {}
        passes, final = self.batches.passes, {turn.network: turn for turn in self.turns}
        for n, batch in enumerate(batches, 1):
            for turn in self.turns:
                engine = self.engines[turn.network]
                with engine.micro(last=n == passes and turn is final[turn.network]):
                    losses = self.loss(batch, turn)
                    engine.backward(losses.loss * (self.scale.value / passes))
                if losses.drawn is not None:
                    batch = replace(batch, drawn=losses.drawn)
                for name, value in {"loss": losses.loss.detach(), **losses.log}.items():
                    key = self._key(turn.network, name)
                    means[key] = means.get(key, 0) + value / passes
        return means

    def _key(self, network: NetworkName, name: str) -> str:
        """Under which name a number of that network is logged: that of the first one has no prefix."""
        return name if network == self.main else f"{network}_{name}"

    def _judged(self, network: NetworkName) -> tuple[str, str]:
        """What of a network must be finite for the step to count."""
        return self._key(network, "loss"), self._key(network, "grad_norm")

    def _agree(self, means: Mapping[str, Tensor], rate: float, wishes: Mapping[str, bool]) -> Report:
        """Means over ranks, the gradients' norms and the wishes of all: the one time a step that the host waits."""
        device, size = self.world.device, self.world.size
        told = [*map(float, wishes.values()), float(self.batches.take_stand_ins())]
        raised = onto(torch.tensor(told), device)
        total = self.world.total(torch.cat([torch.stack([*means.values()]).float(), raised]))
        found = torch.stack([engine.grad_norm() / self.scale.value for engine in self.engines.values()])
        numbers = torch.cat([found, total / size]).tolist()
        norms = {self._key(name, "grad_norm"): numbers.pop(0) for name in self.engines}
        self.stand_ins += round(numbers.pop() * size)
        logged = dict(zip([*means, *wishes], numbers, strict=True))
        loss, granted = logged.pop("loss"), frozenset(wish for wish in wishes if logged.pop(wish) > 0)
        scale = {"loss_scale": self.scale.value} if self.spec.precision == "fp16" else {}
        norm = norms.pop("grad_norm")
        return Report({"loss": loss, "grad_norm": norm, "lr": rate, **logged, **norms, **scale}, granted)

    def _update(self, rate: float) -> None:
        for engine in self.engines.values():
            engine.step(rate, self.scale.value)
        self.updates += 1
        self.skipped_in_row = 0
        self.averages.update(self.weights, self.updates)

    def _skip(self, entry: Mapping[str, float]) -> None:
        """Leave the weights as they are, count the step, and stop after too many in a row."""
        self.skipped += 1
        self.skipped_in_row += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", self.step, entry["loss"], entry["grad_norm"])
        if self.skipped_in_row == self.spec.max_nonfinite_steps:
            bad = self._first_nonfinite()
            where = (
                f"the first non-finite gradient is that of {bad}"
                if bad
                else "all gradients are finite, the loss is not"
            )
            raise TrainingError(
                f"{self.skipped_in_row} steps in a row up to step {self.step} had a non-finite loss or gradient; "
                f"{where}. Lower the learning rate or raise warmup_steps"
            )
        for engine in self.engines.values():
            engine.discard()

    def _first_nonfinite(self) -> str | None:
        """The first parameter whose gradient is not finite; of another network than the first one with its name."""
        found = {name: engine.first_nonfinite() for name, engine in self.engines.items()}  # collective: all are asked
        return next((bad if name == self.main else f"{name}/{bad}" for name, bad in found.items() if bad), None)

    def pieces(self) -> Mapping[str, Piece]:
        """All tensors of the state that this rank holds, always the same views."""
        return self._pieces

    def _all_pieces(self) -> dict[str, Piece]:
        """By the names of a checkpoint: part/tensor, and in front of that the network's name, but of the first one."""
        averages = {name: self.averages.pieces(name) for name in self.averages.names}
        parts: dict[str, Mapping[str, Piece]] = {}
        for name, engine in self.engines.items():
            first, prefix = name == self.main, "" if name == self.main else f"{name}/"
            weights = self.weights if first else engine.weights()
            moments = {f"{prefix}adam-{moment}": pieces for moment, pieces in engine.moments().items()}
            parts |= {f"{prefix}model": {**weights, **engine.buffers()}, **(averages if first else {}), **moments}
        return {f"{part}/{name}": piece for part, pieces in parts.items() for name, piece in pieces.items()}

    def averaged(self) -> dict[str, Piece]:
        """The averages alone, with the buffers that complete each to a network: a snapshot."""
        buffers = {f"model/{name}" for name in self.engine.buffers()}
        return {name: piece for name, piece in self._pieces.items() if name in buffers or name.startswith("ema-")}

    def sampled(self) -> Mapping[str, Piece]:
        """The average that the run is sampled with."""
        sampling = self.spec.sampling
        value = sampling.teacher_ema if self.spec.method == "teacher" else sampling.student_ema
        return self.averages.pieces(profile_name(value))

    def set_aside(self) -> dict[str, int]:
        """Where damaged shards are skipped: how many are known here, and samples that stood in for theirs so far."""
        known = {"bad_shards": len(self.batches.stream.reader.damaged), "stand_ins": self.stand_ins}
        return known if self.lenient else {}

    def metadata(self) -> dict[str, Any]:
        """All other state, as plain values, and whose it is."""
        return {
            "identity": self.spec.identity(),
            "spec": self.spec.model_dump(mode="json"),
            "step": self.step,
            "updates": self.updates,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "stand_ins": self.stand_ins,
            "loss_scale": self.scale.state(),
        }

    def restore(self, found: Checkpoint) -> None:
        """Take over the state of a checkpoint of this run, whatever strategy and number of ranks wrote it."""
        found.read_into(self.pieces())
        self.step, self.updates = found.step, int(found.metadata["updates"])
        self.skipped, self.skipped_in_row = (int(found.metadata[key]) for key in ("skipped", "skipped_in_row"))
        self.stand_ins = int(found.metadata.get("stand_ins", 0))
        self.scale = LossScale(**found.metadata["loss_scale"])
        for engine in self.engines.values():
            engine.loaded(self.updates)
