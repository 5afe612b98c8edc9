"""All state of one run in training, and one step of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from data_pipeline.reader import LatentReader
from models.trigflow import TrigFlowNet
from scaling.config.sections import Launch, Loading, Recipe, StudentRecipe
from scaling.errors import TrainingError
from scaling.methods.batch import Batch, Losses
from scaling.methods.method import DISTILLED, objective_of
from scaling.run.devices import onto
from scaling.run.spec import RunSpec
from scaling.training.batches import PLAIN, Batches
from scaling.training.checkpoints.checkpoint import Checkpoint
from scaling.training.ema import Averages, profile_name
from scaling.training.loss_scale import LossScale
from scaling.training.sharding.parallel import build_engine, freeze
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World
from scaling.training.start import Origin, first_network

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


def learning_rate(recipe: Recipe, step: int) -> float:
    """alpha_ref / sqrt(max(step / t_ref, 1)) after a linear ramp-up in images (EDM2, Eq. 67); steps count from 1."""
    rate = recipe.lr / math.sqrt(max(step / recipe.lr_decay_steps, 1))
    if recipe.lr_rampup_images:
        rate *= min(1.0, step * recipe.batch / recipe.lr_rampup_images)
    return rate


@dataclass(frozen=True)
class Report:
    """What a step tells, the same on all ranks: numbers to log (means over the batch), and wishes that were raised."""

    entry: dict[str, float]
    wishes: frozenset[str]


class Trainer:
    """The network, its optimizer, averages and loss scale, its objective, and how far training has come.

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
    ) -> None:
        """Before the first step. origin: the teacher of a student, or the network at rest that a teacher starts from.

        RuntimeError where the origin's network is not that which the run should start from; ParallelError where the
        strategy cannot be had.
        """
        assert origin is not None or not isinstance(spec.recipe, StudentRecipe), "a student's run names its teacher"
        self.spec, self.world = spec, world
        self.batches = Batches(spec, reader, world, launch.microbatch, loading)
        net = first_network(spec, origin)
        net.unet.activation_checkpointing = launch.activation_checkpointing
        self.engine = build_engine(net, launch, world)
        teacher = freeze(origin.frozen(), launch, world) if origin and spec.method in DISTILLED else None
        self.objective = objective_of(spec.method, spec.recipe, teacher)
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
        finite = math.isfinite(report.entry["loss"]) and math.isfinite(report.entry["grad_norm"])
        if finite:
            self._update(rate)
        else:
            self._skip(report.entry)
        self.scale.update(finite, self.spec.precision)
        return report

    def loss(self, batch: Batch) -> Losses:
        """The objective of this run's method on one microbatch."""
        precision = self.spec.precision
        net = cast(TrigFlowNet, self.engine.net)  # or what wraps it and is called like it
        with torch.autocast(self.world.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            return self.objective.loss(net, batch, self.step + 1)

    def _gradient(self) -> dict[str, Tensor]:
        """Leave the gradient of the mean loss in the engine; the means over this rank's share of what is logged."""
        means: dict[str, Tensor] = {}
        passes = self.batches.passes
        for n, batch in enumerate(self.batches.step(self.step), 1):
            with self.engine.micro(last=n == passes):
                losses = self.loss(batch)
                self.engine.backward(losses.loss * (self.scale.value / passes))
            for name, value in {"loss": losses.loss.detach(), **losses.log}.items():
                means[name] = means.get(name, 0) + value / passes
        return means

    def _agree(self, means: Mapping[str, Tensor], rate: float, wishes: Mapping[str, bool]) -> Report:
        """Means over ranks, the gradient's norm and the wishes of all: the one time a step that the host waits."""
        device, size = self.world.device, self.world.size
        told = [*map(float, wishes.values()), float(self.batches.take_stand_ins())]
        raised = onto(torch.tensor(told), device)
        total = self.world.total(torch.cat([torch.stack([*means.values()]).float(), raised]))
        norm = self.engine.grad_norm() / self.scale.value
        norm, *numbers = torch.cat([norm[None], total / size]).tolist()
        self.stand_ins += round(numbers.pop() * size)
        logged = dict(zip([*means, *wishes], numbers, strict=True))
        loss, granted = logged.pop("loss"), frozenset(wish for wish in wishes if logged.pop(wish) > 0)
        scale = {"loss_scale": self.scale.value} if self.spec.precision == "fp16" else {}
        return Report({"loss": loss, "grad_norm": norm, "lr": rate, **logged, **scale}, granted)

    def _update(self, rate: float) -> None:
        self.engine.step(rate, self.scale.value)
        self.updates += 1
        self.skipped_in_row = 0
        self.averages.update(self.weights, self.updates)

    def _skip(self, entry: Mapping[str, float]) -> None:
        """Leave the weights as they are, count the step, and stop after too many in a row."""
        self.skipped += 1
        self.skipped_in_row += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", self.step, entry["loss"], entry["grad_norm"])
        if self.skipped_in_row == self.spec.max_nonfinite_steps:
            bad = self.engine.first_nonfinite()
            where = (
                f"the first non-finite gradient is that of {bad}"
                if bad
                else "all gradients are finite, the loss is not"
            )
            raise TrainingError(
                f"{self.skipped_in_row} steps in a row up to step {self.step} had a non-finite loss or gradient; "
                f"{where}. Lower the learning rate or raise warmup_steps"
            )
        self.engine.discard()

    def pieces(self) -> Mapping[str, Piece]:
        """All tensors of the state that this rank holds, always the same views."""
        return self._pieces

    def _all_pieces(self) -> dict[str, Piece]:
        engine, averages = self.engine, self.averages
        parts = {"model": {**self.weights, **engine.buffers()}}
        parts |= {name: averages.pieces(name) for name in averages.names}
        parts |= {f"adam-{moment}": pieces for moment, pieces in engine.moments().items()}
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
        self.engine.loaded(self.updates)
