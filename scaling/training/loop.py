"""The training loop of one run, from its configuration to its last checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.order import SampleOrder
from data_pipeline.reader import LatentReader
from models.dropout import Dropout
from models.encoders import get_encoder
from scaling.config import Launch, Recipe, StudentRecipe, TeacherRecipe
from scaling.guidance import NO_LABEL
from scaling.runs import RunSpec
from scaling.training import checkpoint
from scaling.training.ema import PowerEMA
from scaling.training.metrics import MetricsLog
from scaling.training.objectives import (
    Batch,
    Losses,
    Tangent,
    consistency_loss,
    data_velocity,
    draw_noise,
    draw_time,
    teacher_loss,
    teacher_velocity,
)
from scaling.training.randomness import derive_seed, keys, normals, uniforms
from scaling.training.start import Origin, first_network

ADAM = {"betas": (0.9, 0.99), "eps": 1e-11}  # of the paper, for all runs
MOMENTS = ("exp_avg", "exp_avg_sq")

log = logging.getLogger(__name__)


class TrainingError(Exception):
    """Training cannot go on; the message names the step and the tensor."""


class Interrupted(Exception):
    """Training stopped on request, with its state saved."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """alpha_ref / sqrt(max(step / t_ref, 1)) after a linear ramp-up in images (EDM2, Eq. 67); steps count from 1."""
    rate = recipe.lr / math.sqrt(max(step / recipe.lr_decay_steps, 1))
    if recipe.lr_rampup_images:
        rate *= min(1.0, step * recipe.batch / recipe.lr_rampup_images)
    return rate


class Trainer:
    """All state of one run in training: networks, optimizer, averages and the step."""

    def __init__(self, spec: RunSpec, reader: LatentReader, origin: Origin | None, device: torch.device):
        """Before the first step. origin: the teacher of a student, or the network at rest that a teacher starts from.

        RuntimeError where the origin's network is not that which the run should start from.
        """
        self.spec, self.reader, self.device = spec, reader, device
        self.encoder = get_encoder(spec.data.encoder)
        self.order = SampleOrder(len(reader), derive_seed(spec.seed, "order"))
        recipe = spec.recipe
        assert spec.precision in ("fp32", "bf16"), "what runs is checked before a study starts"
        assert origin is not None or not isinstance(recipe, StudentRecipe), "a student's run names its teacher"
        self.net = first_network(spec, origin).to(device)
        self.teacher = origin.frozen().to(device) if origin and spec.method == "scd" else None
        self.ema = PowerEMA(self.net, spec.ema.sigma_rel)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.lr, fused=True, **ADAM)
        self.step = 0
        self.updates = 0  # steps that were not skipped
        self.skipped_in_row = 0

    def batch(self) -> Batch:
        """The samples of the current step and all that is random about them, by position in the stream."""
        recipe, seed = self.spec.recipe, self.spec.seed
        first = self.step * recipe.batch
        latents, labels = self.reader.read(self.order.indices(first, recipe.batch))
        x0 = self.encoder.normalize(torch.from_numpy(latents).to(self.device).float())
        normal = normals(seed, "z", first, recipe.batch, x0[0].numel(), self.device)
        tau = normals(seed, "t", first, recipe.batch, 1, self.device).flatten()
        return Batch(
            x0=x0,
            z=draw_noise(normal.reshape(x0.shape)),
            t=draw_time(tau, recipe.p_mean, recipe.p_std),
            labels=self._labels(torch.from_numpy(labels).to(self.device), first),
            dropout=self._dropout(first),
            guidance=self._guidance(first),
        )

    def _labels(self, labels: Tensor, first: int) -> Tensor:
        """A teacher with guidance must know samples without labels too: some lose theirs."""
        recipe = self.spec.recipe
        if not isinstance(recipe, TeacherRecipe) or not recipe.label_dropout:
            return labels
        lost = uniforms(self.spec.seed, "label", first, recipe.batch, self.device) < recipe.label_dropout
        return labels.masked_fill(lost, NO_LABEL)

    def _dropout(self, first: int) -> Dropout | None:
        recipe = self.spec.recipe
        if not recipe.dropout:
            return None
        masks = keys(self.spec.seed, "dropout", first, recipe.batch, self.device)
        return Dropout(recipe.dropout, masks, recipe.dropout_max_resolution)

    def _guidance(self, first: int) -> Tensor | None:
        """s ~ U[low, high] for each sample."""
        recipe = self.spec.recipe
        if not isinstance(recipe, StudentRecipe) or recipe.guidance is None:
            return None
        low, high = recipe.guidance
        return low + (high - low) * uniforms(self.spec.seed, "guidance", first, recipe.batch, self.device)

    def loss(self, batch: Batch) -> Losses:
        """The objective of this run's method."""
        recipe = self.spec.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            if not isinstance(recipe, StudentRecipe):
                return teacher_loss(self.net, batch)
            velocity = data_velocity(batch) if self.teacher is None else teacher_velocity(self.teacher, batch)
            warmup = min(1.0, (self.step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
            tangent = Tangent(recipe.tangent, recipe.tangent_norm, recipe.tangent_constant)
            return consistency_loss(self.net, batch, velocity, warmup, tangent)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; what it logs, as plain numbers."""
        rate = learning_rate(self.spec.recipe, self.step + 1)
        losses = self.loss(self.batch())
        self.optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        self.step += 1
        entry = {"loss": losses.loss.item(), "grad_norm": grad_norm.item(), "lr": rate}
        entry.update({name: value.item() for name, value in losses.log.items()})
        if math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]):
            self.skipped_in_row = 0
            self._update(rate)
        else:
            self._skip(entry)
        return entry

    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.updates += 1
        self.net.force_weight_norm()
        self.ema.update(self.net, self.updates)

    def _skip(self, entry: dict[str, float]) -> None:
        """Leave the weights as they are, count the step, and stop after too many in a row."""
        self.skipped_in_row += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", self.step, entry["loss"], entry["grad_norm"])
        if self.skipped_in_row < self.spec.max_nonfinite_steps:
            return
        bad = [n for n, p in self.net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        where = (
            f"the first non-finite gradient is that of {bad[0]}" if bad else "the gradients are finite, the loss is not"
        )
        raise TrainingError(
            f"{self.skipped_in_row} steps in a row up to step {self.step} had a non-finite loss or gradient; {where}. "
            "Lower the learning rate or raise warmup_steps"
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors by name."""
        state = {f"model/{name}": tensor for name, tensor in self.net.state_dict().items()}
        for sigma_rel in self.spec.ema.sigma_rel:
            state.update({f"ema-{sigma_rel}/{n}": t for n, t in self.ema.state(sigma_rel).items()})
        for name, parameter in self.net.named_parameters():
            for moment in MOMENTS:
                held = self.optimizer.state[parameter].get(moment)
                state[f"adam-{moment}/{name}"] = torch.zeros_like(parameter) if held is None else held
        return state

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the current step and delete those that it replaces."""
        metadata = {
            "identity": self.spec.identity(),
            "spec": self.spec.model_dump(mode="json"),
            "step": self.step,
            "updates": self.updates,
            "skipped_in_row": self.skipped_in_row,
        }
        checkpoint.save(checkpoint.path_of(folder, self.step), self.tensors(), metadata)
        checkpoint.prune(folder)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Take over the state of a checkpoint of this run."""
        self.net.load_state_dict(found.part("model/"))
        for sigma_rel in self.spec.ema.sigma_rel:
            self.ema.load(sigma_rel, found.part(f"ema-{sigma_rel}/"))
        self.step, self.updates = found.step, int(found.metadata["updates"])
        self.skipped_in_row = int(found.metadata["skipped_in_row"])
        moments = {moment: found.part(f"adam-{moment}/") for moment in MOMENTS}
        for name, parameter in self.net.named_parameters():
            state = {moment: moments[moment][name].to(self.device) for moment in MOMENTS}
            updates = torch.tensor(float(self.updates), device=self.device)
            self.optimizer.state[parameter] = {"step": updates, **state}


def train(
    spec: RunSpec,
    home: Path,
    reader: LatentReader,
    origin: Origin | None,
    launch: Launch,
    device: torch.device,
    should_stop: Callable[[], bool],
) -> checkpoint.Checkpoint:
    """Train a run to its last step, continuing from its newest checkpoint, and return the last checkpoint.

    A run of no steps is what it starts from, saved at step 0.
    Checkpoints fall on logged steps (or on a request to stop), so that metrics.jsonl continues without a seam.
    Raises Interrupted, with the state saved, once `should_stop` says so; TrainingError after too many bad steps.
    """
    folder = home / "checkpoints"
    folder.mkdir(exist_ok=True)
    steps = spec.recipe.steps
    found = checkpoint.newest(folder, spec.identity())
    if found is not None and found.step >= steps:
        return found
    trainer = Trainer(spec, reader, origin, device)
    trainer.net.unet.activation_checkpointing = launch.activation_checkpointing
    if found is not None:
        trainer.restore(found)
        log.info("continuing after step %d of %d", found.step, steps)
    metrics = MetricsLog(home / "metrics.jsonl", trainer.step, spec.recipe.batch)
    if not steps:
        trainer.save(folder)
    saved = time.monotonic()
    while trainer.step < steps:
        entry = trainer.train_step()
        logged = trainer.step % launch.log_every == 0 or trainer.step == steps
        if logged:
            metrics.write(trainer.step, entry)
        stop = should_stop()
        if stop or trainer.step == steps or (logged and time.monotonic() - saved > launch.checkpoint_seconds):
            metrics.sync()
            trainer.save(folder)
            saved = time.monotonic()
        if stop and trainer.step < steps:
            raise Interrupted(f"stopped after step {trainer.step} of {steps}, which is saved")
    metrics.close()
    return checkpoint.load(checkpoint.path_of(folder, steps))
